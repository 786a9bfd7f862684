"""What a fix does to each row, from findings alone: what is certain goes or is mended, the rest is left and named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from attune.data.cleaning.decide import MOST_COMPARED, Action, decide
from attune.data.cleaning.seen import Pairs, Seen, near_by
from attune.data.duplicates.near import find_clusters
from attune.data.duplicates.words import WordStore
from attune.data.lint.catalog import Found
from attune.data.lint.view import view
from attune.types import Example, Message, Place


def seen(rows: int, **others: Any) -> Seen:
    """Return a survey of so many training rows in which nothing was found but what is named."""
    alone = np.arange(rows)
    values: dict[str, Any] = {
        "found": (),
        "place_of": lambda number: Place("a.jsonl", number + 1, 10 * number),
        "is_train": np.ones(rows, np.bool_),
        "exact_of": alone,
        "cluster_of": alone,
        "are_near": lambda pairs: np.ones(len(pairs), np.bool_),
    }
    return Seen(**{**values, **others})


def dropped(actions: dict[int, Action]) -> dict[int, tuple[str, int]]:
    """Return which rows go: rule and the row that each repeats."""
    return {row: (action.rule, action.of) for row, action in actions.items() if action.do == "drop"}


def labels(*values: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return labels of rows as an array."""
    return np.array(values, dtype=np.int64)


def test_a_clean_survey_asks_for_nothing() -> None:
    """No finding, no action; also for no rows at all."""
    assert decide(seen(5)) == {}
    assert decide(seen(0)) == {}


def test_the_first_of_equal_rows_stays() -> None:
    """Every later copy goes and names the first."""
    assert dropped(decide(seen(6, exact_of=labels(0, 1, 0, 3, 1, 0)))) == {
        2: ("duplicate", 0),
        4: ("duplicate", 1),
        5: ("duplicate", 0),
    }


def test_slots_and_empty_prompts_go_before_duplicates() -> None:
    """A row that goes for what stands in it is not the one that its near-duplicates repeat."""
    found = [Found("placeholder", [0], {0: "{{name}}"}), Found("empty-prompt", [3])]
    actions = decide(seen(4, found=found, cluster_of=labels(0, 0, 0, 3)))
    assert dropped(actions) == {0: ("placeholder", -1), 3: ("empty-prompt", -1), 2: ("near-duplicate", 1)}
    assert actions[0].why == "{{name}}"


def test_the_training_row_of_a_leak_goes_with_its_copies() -> None:
    """The held-out row never goes, and no copy of the leaked row is kept in its stead."""
    is_train = np.array([True, True, True, False, False])
    actions = decide(seen(5, is_train=is_train, exact_of=labels(0, 1, 0, 0, 4), leaks=[(3, 2)]))
    assert dropped(actions) == {0: ("split-leak", 3), 2: ("split-leak", 3)}


def test_held_out_rows_are_never_changed() -> None:
    """Whatever is found in them, alone or as copies of each other."""
    found = [Found("placeholder", [1]), Found("broken-characters", [1]), Found("conflict", [1, 2])]
    is_train = np.array([True, False, False])
    assert decide(seen(3, found=found, is_train=is_train, exact_of=labels(0, 1, 1), cluster_of=labels(0, 0, 0))) == {}


def test_of_a_chain_only_rows_near_one_that_stays_go() -> None:
    """Ends of a cluster that are not near each other both stay, and each names the row it repeats."""

    def are_near(pairs: Pairs) -> np.ndarray[Any, np.dtype[np.bool_]]:
        near: np.ndarray[Any, np.dtype[np.bool_]] = np.abs(pairs[:, 0] - pairs[:, 1]) <= 1
        return near

    assert dropped(decide(seen(5, cluster_of=labels(0, 0, 0, 0, 0), are_near=are_near))) == {
        1: ("near-duplicate", 0),
        3: ("near-duplicate", 2),
    }


def test_a_huge_cluster_of_different_rows_costs_no_square() -> None:
    """Each row is compared with at most so many others, and stays where none of them is near."""
    asked = []

    def are_near(pairs: Pairs) -> np.ndarray[Any, np.dtype[np.bool_]]:
        asked.append(len(pairs))
        return np.zeros(len(pairs), np.bool_)

    assert decide(seen(1000, cluster_of=np.zeros(1000, np.int64), are_near=are_near)) == {}
    assert len(asked) == MOST_COMPARED


def test_what_needs_a_person_is_left_and_named_the_worst_first() -> None:
    """Secrets, cut answers and conflicts stay; what is only told is not named; broken characters are mended too."""
    found = [
        Found("truncated-answer", [0, 1]),
        Found("several-answers", [0]),
        Found("refusal", [2], severity="info"),
        Found("broken-characters", [1]),
        Found("secret", [1, 0]),
    ]
    actions = decide(seen(3, found=found))
    assert set(actions) == {0, 1}
    assert (actions[0].do, actions[0].rule, actions[0].left) == ("leave", "secret", ("truncated-answer",))
    assert (actions[1].do, actions[1].left) == ("repair", ("secret", "truncated-answer"))


def judged(pairs: Sequence[tuple[str, str]]) -> dict[int, tuple[str, int]]:
    """Return which rows of question and answer go as near-duplicates, as real words are compared."""
    store = WordStore()
    for number, (question, answer) in enumerate(pairs):
        messages = (Message("user", question), Message("assistant", answer))
        store.take(view(number, Example(Place("a.jsonl", number + 1, 0), messages)))
    twins = find_clusters(store)
    are_near = near_by(store, twins.exact_of)
    return dropped(decide(seen(len(pairs), exact_of=twins.exact_of, cluster_of=twins.cluster_of, are_near=are_near)))


def test_near_duplicates_with_another_answer_stay() -> None:
    """A copy with one word changed goes; the same question with another label, number or field stays."""
    question = "Read the review of the lamp that my sister bought for her desk last spring and name its mood: {}"
    review = "it flickers, hums and smells of burnt dust whenever somebody opens the window of the {}."
    asked = [question.format(review.format(room)) for room in ("kitchen", "bathroom")]
    rows = [
        (asked[0], "negative"),
        (asked[1], "negative"),
        (asked[1], "positive"),
        (asked[0].replace("mood", "price"), "It costs 30 euros in all shops of the town."),
        (asked[0].replace("mood", "price"), "It costs 40 euros in all shops of the town."),
        (asked[0].replace("mood", "data"), '{"mood": "negative", "part": "lamp", "for": "desk", "smell": true}'),
        (asked[0].replace("mood", "data"), '{"mood": "positive", "part": "lamp", "for": "desk", "smell": true}'),
    ]
    assert judged(rows) == {1: ("near-duplicate", 0)}
