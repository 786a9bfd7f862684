"""The guard of collapse: openers and repetition, against references and the base model."""

from __future__ import annotations

from typing import Any

import pytest

from attune.evals.guards.history import History
from attune.evals.guards.validations import after_validation
from attune.types import Alarm
from tests.evals.guards.histories import facts, probe, sound


def alarms_of(*shares: float, before: dict[str, Any] | None = None, **changes: Any) -> list[dict[str, Alarm]]:
    """The alarms at validations where so many of 32 answers begin alike and one reference in ten does."""
    history, found = History(facts()), []
    values = {"openings": 32, "reference_opener_share": 0.1, "opener": "Sure! Here is", **changes}
    history.add_probe(probe(0, **{**values, "opener": "The", "opener_share": 0.1, **(before or {})}))
    for number, share in enumerate(shares, start=1):
        history.add_probe(probe(10 * number, **values, opener_share=share))
        found.append(sound(after_validation(history)))
    return found


@pytest.mark.parametrize(("count", "raises"), [(8, False), (9, True)])
def test_openers_need_twice_the_share_and_a_small_p(count: int, raises: bool) -> None:
    """Eight of 32 against 10 % have p = 0.012, nine 0.004."""
    found = alarms_of(count / 32)[-1]
    assert ("opener-collapse" in found) == raises
    if raises:
        assert found["opener-collapse"].severity == "warning"
        assert found["opener-collapse"].threshold == 0.2
        assert '"Sure! Here is"' in found["opener-collapse"].message


@pytest.mark.parametrize(("count", "raises"), [(19, False), (20, True)])
def test_openers_are_judged_by_the_references(count: int, raises: bool) -> None:
    """Where 31 % of the references open alike, 62 % of the answers may."""
    assert ("opener-collapse" in alarms_of(count / 32, reference_opener_share=0.31)[-1]) == raises


def test_openers_of_the_base_model_are_not_the_training() -> None:
    """A base model that opened so before is no collapse; with another opener it is."""
    before = {"opener": "Sure! Here is", "opener_share": 0.9}
    assert not alarms_of(0.9, before=before)[-1]
    assert alarms_of(0.9, before={**before, "opener": "I am"})[-1]


@pytest.mark.parametrize(("shares", "severity"), [((0.5,), "warning"), ((0.4, 0.5), "warning"), ((0.5, 0.5), "error")])
def test_half_of_the_answers_twice_in_a_row_is_an_error(shares: tuple[float, ...], severity: str) -> None:
    """A model may pass through the most frequent opener; staying there is collapse."""
    assert alarms_of(*shares)[-1]["opener-collapse"].severity == severity


def test_openers_of_labels_are_never_an_error() -> None:
    """A model of labels takes the most frequent one first."""
    history = History(facts(is_structured=True))
    for number in range(4):
        values: dict[str, Any] = {
            "opener": "yes",
            "opener_share": 1.0 if number else 0.2,
            "reference_opener_share": 0.3,
        }
        history.add_probe(probe(10 * number, openings=32, **values))
    assert sound(after_validation(history))["opener-collapse"].severity == "warning"


def test_few_answers_say_nothing() -> None:
    """Below eight answers neither openers nor references are judged."""
    assert not alarms_of(1.0, openings=7, reference_opener_share=0.0)[-1]
    assert alarms_of(1.0, openings=8, reference_opener_share=0.0)[-1]
    assert not alarms_of(1.0, openings=7, reference_opener_share=1.0)[-1]


@pytest.mark.parametrize(
    ("share", "changes", "raises"),
    [
        (0.49, {}, False),
        (0.5, {}, True),
        (0.9, {"is_structured": True}, False),
        (0.9, {"reference_opener": '{"product":"'}, False),
        (0.9, {"reference_opener": "```python\n"}, False),
        (0.9, {"reference_opener": "1."}, False),
        (0.9, {"reference_opener": "Sure! Here is"}, True),
    ],
)
def test_references_that_open_alike_are_told_before_training(
    share: float, changes: dict[str, Any], raises: bool
) -> None:
    """Half of free-text references with the same words is a warning at step 0; structure opens alike by its nature."""
    history = History(facts(**changes))
    history.add_probe(probe(0, openings=32, opener="The", opener_share=0.1, reference_opener_share=share))
    found = sound(after_validation(history))
    assert set(found) == ({"same-openers"} if raises else set())


@pytest.mark.parametrize(
    ("changes", "raises"),
    [
        ({"distinct_2": 0.61, "reference_distinct_2": 1.0}, False),
        ({"distinct_2": 0.59, "reference_distinct_2": 1.0}, True),
        ({"compression": 2.99, "reference_compression": 2.0}, False),
        ({"compression": 3.01, "reference_compression": 2.0}, True),
        ({"compression": 3.01, "reference_compression": 0.0}, False),
    ],
)
def test_repetition(changes: dict[str, Any], raises: bool) -> None:
    """Answers far poorer than the references are told, by either measure."""
    before = {name: 1.0 for name in changes if not name.startswith("reference")}
    assert ("repetition" in alarms_of(0.1, before=before, **changes)[-1]) == raises


@pytest.mark.parametrize(("before", "raises"), [(0.3, False), (0.5, True)])
def test_repetition_of_the_base_model_is_not_the_training(before: float, raises: bool) -> None:
    """A model that repeated itself more before has improved."""
    changes = {"distinct_2": 0.4, "reference_distinct_2": 1.0}
    assert ("repetition" in alarms_of(0.1, before={"distinct_2": before}, **changes)[-1]) == raises
