"""The guard of answers' ends, at both sides of its thresholds."""

from __future__ import annotations

from typing import Any

import pytest

from attune.evals.guards.history import History
from attune.evals.guards.validations import after_validation
from attune.types import Alarm
from tests.evals.guards.histories import facts, probe, sound


def alarms_at(number: int, before: dict[str, Any] | None = None, **values: Any) -> dict[str, Alarm]:
    """The alarms at a step of 100, of a run whose references are all short enough."""
    history = History(facts(reference_finish=values.pop("reference_finish", 1.0)))
    history.add_probe(probe(0, **(before or {})))
    history.add_probe(probe(number, **values))
    return sound(after_validation(history))


@pytest.mark.parametrize(
    ("number", "recall", "severity"),
    [
        (29, 0.0, None),
        (30, 0.89, "warning"),
        (30, 0.91, None),
        (49, 0.0, "warning"),
        (50, 0.49, "error"),
        (50, 0.51, "warning"),
    ],
)
def test_stop_recall_is_judged_once_it_could_be_learned(number: int, recall: float, severity: str | None) -> None:
    """From a third of the run on a low recall is told, from half of it a very low one is an error."""
    found = alarms_at(number, stop_recall=recall)
    assert (found["stop-not-learned"].severity if found else None) == severity


def test_a_model_that_knew_how_to_stop_is_judged_at_once() -> None:
    """Unlearning the end needs no patience."""
    assert alarms_at(1, {"stop_recall": 0.95}, stop_recall=0.4)["stop-not-learned"].severity == "error"
    assert not alarms_at(1, {"stop_recall": 0.85}, stop_recall=0.4)


@pytest.mark.parametrize(
    ("number", "finished", "recall", "due", "severity"),
    [
        (50, 26, 0.0, 1.0, None),  # of 32: p = 0.09 against 0.9
        (50, 25, 0.0, 1.0, "warning"),
        (50, 15, 0.4, 1.0, "error"),
        (50, 15, 0.95, 1.0, "warning"),
        (49, 15, 0.4, 1.0, "warning"),
        (29, 0, 0.4, 1.0, None),
        (50, 15, 0.4, 0.5, None),  # half of the references are longer themselves
    ],
)
def test_finish_rate(number: int, finished: int, recall: float, due: float, severity: str | None) -> None:
    """Answers that do not end are judged against references that would; with a learned stop token they circle."""
    values: dict[str, Any] = {
        "answers": 32,
        "finish_rate": finished / 32,
        "stop_recall": recall,
        "reference_finish": due,
    }
    found = alarms_at(number, **values)
    assert (found["runs-on"].severity if "runs-on" in found else None) == severity
    if severity == "warning" and recall > 0.9:
        assert "circles" in found["runs-on"].message


@pytest.mark.parametrize(
    ("leak", "before", "raises"), [(0.049, None, False), (0.051, None, True), (0.051, 0.06, False)]
)
def test_stop_leak(leak: float, before: float | None, raises: bool) -> None:
    """In answers of 31 tokens more than 0.05 a token is more than one stop and a half; the base model may do so."""
    found = alarms_at(5, {"stop_leak": before}, stop_leak=leak, reference_tokens=31.0)
    assert ("stops-early" in found) == raises


def test_the_base_model_is_not_judged() -> None:
    """Before training, no end is anybody's fault."""
    history = History(facts())
    history.add_probe(probe(0, stop_recall=0.0, finish_rate=0.0, answers=32, stop_leak=1.0, reference_tokens=9.0))
    assert after_validation(history) == []
