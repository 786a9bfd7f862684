"""The guard of collapse: openers and repetition, against references and the base model."""

from __future__ import annotations

from typing import Any

import pytest
from scipy import stats

from attune.evals.guards.history import History
from attune.evals.guards.thresholds import DEFAULT
from attune.evals.guards.validations import after_validation
from attune.types import Alarm
from tests.evals.guards.histories import facts, probe, sound


def alarms_of(*shares: float, before: dict[str, Any] | None = None, **changes: Any) -> list[dict[str, Alarm]]:
    """The alarms at validations where so many of 32 sampled answers begin alike and one reference in ten does."""
    history, found = History(facts()), []
    values = {"answers": 32, "openings": 32, "reference_opener_share": 0.1, "opener": "Sure! Here is", **changes}
    history.add_probe(probe(0, **{**values, "opener": "The", "opener_share": 0.1, **(before or {})}))
    for number, share in enumerate(shares, start=1):
        history.add_probe(probe(10 * number, **values, opener_share=share))
        found.append(sound(after_validation(history)))
    return found


@pytest.mark.parametrize(("openings", "expected"), [(32, 0.1), (32, 0.31), (400, 0.05)])
def test_openers_need_a_share_above_the_references_and_a_small_p(openings: int, expected: float) -> None:
    """Chance binds where 32 answers stand against 10 %, twice the references' 31 %, and the least share of many."""
    least = max(DEFAULT.opener_share, DEFAULT.opener_times * expected)

    def is_rare(count: int) -> bool:
        return bool(stats.binomtest(count, openings, expected, alternative="greater").pvalue < DEFAULT.opener_p)

    fewest = next(count for count in range(openings) if count / openings >= least and is_rare(count))
    below, above = (
        alarms_of(count / openings, openings=openings, reference_opener_share=expected)[-1]
        for count in (fewest - 1, fewest)
    )
    assert not below
    assert above["opener-collapse"].severity == "warning"
    assert above["opener-collapse"].threshold == least
    assert f'{fewest} of {openings} sampled answers begin "Sure! Here is"' in above["opener-collapse"].message


def test_openers_of_the_base_model_are_not_the_training() -> None:
    """A base model that opened so before is no collapse; with another opener it is."""
    before = {"opener": "Sure! Here is", "opener_share": 0.9}
    assert not alarms_of(0.9, before=before)[-1]
    assert alarms_of(0.9, before={**before, "opener": "I am"})[-1]


def test_half_of_the_answers_in_a_row_is_an_error() -> None:
    """A model may pass through the most frequent opener; staying there is collapse."""
    share, times = DEFAULT.opener_error_share, DEFAULT.opener_in_a_row
    found = alarms_of(*[share] * (times - 1), share - 0.01, *[share] * times)
    assert [alarms["opener-collapse"].severity for alarms in found] == ["warning"] * (2 * times - 1) + ["error"]


def test_openers_of_labels_are_never_an_error() -> None:
    """A model of labels takes the most frequent one first."""
    history = History(facts(is_structured=True))
    for number in range(4):
        values: dict[str, Any] = {
            "opener": "yes",
            "opener_share": 1.0 if number else 0.2,
            "reference_opener_share": 0.3,
        }
        history.add_probe(probe(10 * number, answers=32, openings=32, **values))
    assert sound(after_validation(history))["opener-collapse"].severity == "warning"


def test_few_answers_say_nothing() -> None:
    """Few sampled beginnings judge neither openers nor references, few whole answers no repetition."""
    few, enough = DEFAULT.collapse_answers - 1, DEFAULT.collapse_answers
    assert not alarms_of(1.0, openings=few, reference_opener_share=0.0)[-1]
    assert set(alarms_of(1.0, openings=enough, answers=few, reference_opener_share=0.0)[-1]) == {"opener-collapse"}
    assert not alarms_of(1.0, openings=few, reference_opener_share=1.0)[-1]
    poor = {"distinct_2": 0.9 * DEFAULT.distinct_ratio, "reference_distinct_2": 1.0}
    times = [0.1] * DEFAULT.repetition_in_a_row
    assert not alarms_of(*times, before={"distinct_2": 1.0}, answers=few, **poor)[-1]
    assert set(alarms_of(*times, before={"distinct_2": 1.0}, answers=enough, openings=few, **poor)[-1]) == {
        "repetition"
    }


@pytest.mark.parametrize(
    ("share", "changes", "raises"),
    [
        (DEFAULT.reference_opener_share - 0.01, {}, False),
        (DEFAULT.reference_opener_share, {}, True),
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
        ({"distinct_2": DEFAULT.distinct_ratio + 0.01, "reference_distinct_2": 1.0}, False),
        ({"distinct_2": DEFAULT.distinct_ratio - 0.01, "reference_distinct_2": 1.0}, True),
        ({"compression": 2 * DEFAULT.compression_ratio - 0.01, "reference_compression": 2.0}, False),
        ({"compression": 2 * DEFAULT.compression_ratio + 0.01, "reference_compression": 2.0}, True),
        ({"compression": 2 * DEFAULT.compression_ratio + 0.01, "reference_compression": 0.0}, False),
    ],
)
def test_repetition(changes: dict[str, Any], raises: bool) -> None:
    """Answers far poorer than the references are told, by either measure."""
    before = {name: 1.0 for name in changes if not name.startswith("reference")}
    found = alarms_of(*[0.1] * DEFAULT.repetition_in_a_row, before=before, **changes)
    assert ["repetition" in alarms for alarms in found] == [False] * (len(found) - 1) + [raises]


def test_repetition_must_stay() -> None:
    """A model that only begins to learn repeats itself for a while; one good validation begins the count anew."""
    history, told, times = History(facts()), [], DEFAULT.repetition_in_a_row
    poor, fair = DEFAULT.distinct_ratio - 0.01, DEFAULT.distinct_ratio + 0.01
    for number, distinct in enumerate([1.0, *[poor] * (times - 1), fair, *[poor] * (times + 1)]):
        history.add_probe(probe(10 * number, answers=32, distinct_2=distinct, reference_distinct_2=1.0))
        told.append("repetition" in sound(after_validation(history)))
    assert told == [False] * (2 * times) + [True, True]


@pytest.mark.parametrize(("more", "raises"), [(-0.1, False), (0.1, True)])
def test_repetition_of_the_base_model_is_not_the_training(more: float, raises: bool) -> None:
    """A model that repeated itself more before has improved."""
    now = 0.7 * DEFAULT.distinct_ratio
    found = alarms_of(
        *[0.1] * DEFAULT.repetition_in_a_row,
        before={"distinct_2": now + more},
        distinct_2=now,
        reference_distinct_2=1.0,
    )
    assert ("repetition" in found[-1]) == raises


def test_repetition_of_labels_is_none() -> None:
    """Labels, numbers and JSON are made of few words."""
    history = History(facts(is_structured=True))
    for number in range(8):
        history.add_probe(probe(10 * number, answers=32, distinct_2=0.1 if number else 0.9, reference_distinct_2=0.9))
    assert "repetition" not in sound(after_validation(history))
