"""The guard of answers' ends, at both sides of its thresholds."""

from __future__ import annotations

from typing import Any

import pytest
from scipy import stats

from attune.evals.guards.history import History
from attune.evals.guards.thresholds import DEFAULT
from attune.evals.guards.validations import after_validation
from attune.types import Alarm
from tests.evals.guards.histories import facts, probe, sound

WARM, ERROR_WARM = round(100 * DEFAULT.stop_warm), round(100 * DEFAULT.stop_error_warm)  # of 100 steps
RECALL, ERROR_RECALL = DEFAULT.stop_recall, DEFAULT.stop_error_recall


def alarms_at(number: int, before: dict[str, Any] | None = None, *, of: int = 100, **values: Any) -> dict[str, Alarm]:
    """The alarms at a step of some, of a run whose references are all short enough."""
    history = History(facts(reference_finish=values.pop("reference_finish", 1.0), total_steps=of))
    history.add_probe(probe(0, **(before or {})))
    history.add_probe(probe(number, **values))
    return sound(after_validation(history))


@pytest.mark.parametrize(
    ("number", "recall", "severity"),
    [
        (WARM - 1, 0.0, None),
        (WARM, RECALL - 0.01, "warning"),
        (WARM, RECALL, None),
        (ERROR_WARM - 1, 0.0, "warning"),
        (ERROR_WARM, ERROR_RECALL - 0.01, "error"),
        (ERROR_WARM, ERROR_RECALL, "warning"),
    ],
)
def test_stop_recall_is_judged_once_it_could_be_learned(number: int, recall: float, severity: str | None) -> None:
    """From a third of the run on a low recall is told, from half of it a very low one is an error."""
    found = alarms_at(number, stop_recall=recall)
    assert (found["stop-not-learned"].severity if found else None) == severity


def test_a_model_that_knew_how_to_stop_is_judged_at_once() -> None:
    """Unlearning the end needs no patience."""
    now = ERROR_RECALL - 0.1
    assert alarms_at(1, {"stop_recall": RECALL}, stop_recall=now)["stop-not-learned"].severity == "error"
    assert not alarms_at(1, {"stop_recall": RECALL - 0.05}, stop_recall=now)


@pytest.mark.parametrize(
    ("number", "of", "knew", "raises"),
    [
        (3, 3, 0.0, False),
        (3, 3, 1.0, True),
        (DEFAULT.stop_fewest_steps - 1, DEFAULT.stop_fewest_steps, 0.0, False),
        (DEFAULT.stop_fewest_steps, DEFAULT.stop_fewest_steps, 0.0, True),
    ],
)
def test_a_few_steps_teach_no_end(number: int, of: int, knew: float, raises: bool) -> None:
    """The last step of a very short run is no time to judge ends, unless the model knew them before."""
    before = {"stop_recall": knew, "answers": 32, "finish_rate": knew}
    found = alarms_at(number, before, of=of, stop_recall=0.0, answers=32, finish_rate=0.0)
    assert {name: alarm.severity for name, alarm in found.items()} == (
        {"stop-not-learned": "error", "runs-on": "error"} if raises else {}
    )


def _most_that_are_too_few(share: float) -> int:
    """The most ends of 32 answers that are surely below a share."""
    p_values = [stats.binomtest(count, 32, share, alternative="less").pvalue for count in range(33)]
    return max(count for count, p in enumerate(p_values) if p < DEFAULT.finish_p)


FEW = _most_that_are_too_few(DEFAULT.finish_share)  # 25 of 32 against 0.9
HALF = round(32 * DEFAULT.finish_error_share)


@pytest.mark.parametrize(
    ("number", "finished", "recall", "due", "severity"),
    [
        (ERROR_WARM, FEW + 1, 0.0, 1.0, None),
        (ERROR_WARM, FEW, 0.0, 1.0, "warning"),
        (ERROR_WARM, HALF, 0.4, 1.0, "warning"),
        (ERROR_WARM, HALF - 1, 0.4, 1.0, "error"),
        (ERROR_WARM, HALF - 1, RECALL, 1.0, "warning"),
        (ERROR_WARM - 1, HALF - 1, 0.4, 1.0, "warning"),
        (WARM - 1, 0, 0.4, 1.0, None),
        (ERROR_WARM, HALF - 1, 0.4, 0.5, None),  # half of the references are longer themselves
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
    if severity == "warning" and recall >= RECALL:
        assert "circles" in found["runs-on"].message


LEAK = DEFAULT.early_stops / 30


@pytest.mark.parametrize(
    ("leak", "before", "raises"),
    [(LEAK - 0.001, None, False), (LEAK + 0.001, None, True), (LEAK + 0.001, LEAK + 0.01, False)],
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
