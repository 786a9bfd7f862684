"""Leaks: held-out rows that training rows give away."""

from __future__ import annotations

import random
from pathlib import Path

from attune.data.duplicates.leaks import Leak, find_leaks, found
from attune.data.duplicates.near import find_clusters
from attune.types import Example
from tests.data.duplicates.real import load
from tests.data.duplicates.rows import changed, chat, place_of, prose, store_of, text


def leaks_of(train: list[Example], held_out: list[Example]) -> dict[int, tuple[str, int]]:
    """Each leak's kind and training row, by the held-out row's number among its kind."""
    return {leak.row - len(train): (leak.kind, leak.train_row) for leak in find(train, held_out)}


def find(train: list[Example], held_out: list[Example]) -> list[Leak]:
    """The leaks of two sets."""
    store = store_of([*train, *held_out])
    return find_leaks(store, find_clusters(store), ["train"] * len(train) + ["valid"] * len(held_out))


def made(seed: int, rows: int) -> tuple[random.Random, list[Example]]:
    """Rows that share nothing."""
    rng = random.Random(seed)
    return rng, [chat(prose(rng, 20), prose(rng, 40)) for _ in range(rows)]


def test_each_kind_is_told_and_names_its_training_row() -> None:
    """Equal, the same question, almost equal, covered by runs of one row, a shared passage; and a clean row."""
    rng, train = made(1, 100)
    (question, answer), other = (m.content for m in train[7].messages), prose(rng, 40)
    passage = " ".join(answer.split()[5:20])
    held_out = [
        train[5],
        chat(question, other),
        chat(question, changed(answer, [6])),
        chat(changed(question, [6]), changed(answer, [10, 30])),
        chat(f"{prose(rng, 9)} {question}", f"{' '.join(answer.split()[:30])} {prose(rng, 15)}"),
        chat(prose(rng, 20), f"{prose(rng, 15)} {passage} {prose(rng, 20)}"),
        chat(prose(rng, 20), prose(rng, 40)),
    ]
    assert leaks_of(train, held_out) == {
        0: ("same row", 5),
        1: ("same question", 7),
        2: ("same question", 7),
        3: ("near-duplicate", 7),
        4: ("covered", 7),
        5: ("passage", 7),
    }


def test_a_shared_template_gives_nothing_away() -> None:
    """A long instruction in every row of both sets is neither covered words nor a passage."""
    rng = random.Random(2)
    instruction = prose(rng, 60)
    train = [chat(f"{instruction} {prose(rng, 20)}", "yes") for _ in range(100)]
    held_out = [chat(f"{instruction} {prose(rng, 20)}", "yes") for _ in range(30)]
    assert leaks_of(train, held_out) == {}
    copied = train[31].messages[0].content
    part = " ".join(copied.split()[60:76])
    assert leaks_of(train, [chat(f"{instruction} {part} {prose(rng, 4)}", "no")]) == {0: ("covered", 31)}


def test_pieces_of_many_rows_do_not_add_up() -> None:
    """What counts is the cover by one training row."""
    rng, train = made(3, 60)
    pieces = [" ".join(row.messages[1].content.split()[:9]) for row in train[:6]]
    assert leaks_of(train, [chat(prose(rng, 10), " ".join(pieces))]) == {}


def test_the_training_row_that_covers_most_is_named() -> None:
    """Of two training rows that share words with a held-out row, the one with more of them is the source."""
    rng, train = made(4, 60)
    little, much = train[3].messages[1].content.split(), train[9].messages[1].content.split()
    mixed = " ".join([*little[:9], *much[:32]])
    assert leaks_of(train, [chat(prose(rng, 4), mixed)]) == {0: ("covered", 9)}


def test_common_short_and_empty_questions_are_no_leak() -> None:
    """A question of three words, one that many rows ask, and plain text without one."""
    rng, train = made(5, 40)
    train += [chat("Tell a joke", prose(rng, 20)), text(prose(rng, 20))]
    train += [chat("Write me a new poem now", prose(rng, 20)) for _ in range(20)]
    held_out = [chat("Tell a joke", prose(rng, 20)), chat("Write me a new poem now", prose(rng, 20))]
    assert leaks_of(train, [*held_out, text(prose(rng, 20))]) == {}


def test_formulas_are_no_passage() -> None:
    """Sums in the same notation share runs of figures and signs without being copied."""
    rng, train = made(6, 40)
    sums = "60 / 2 = << 60 / 2 = 30 >> 30 + 5 = << 30 + 5 = 35 >> 35"
    train.append(chat(prose(rng, 20), f"so it is {sums} {prose(rng, 10)}"))
    assert leaks_of(train, [chat(prose(rng, 20), f"we see that {sums} {prose(rng, 10)}")]) == {}


def test_one_set_alone_has_no_leaks() -> None:
    """Without a training set or a held-out set there is nothing to compare."""
    _, rows = made(7, 3)
    assert find(rows, []) == find([], rows) == []


def test_findings_state_kinds_places_and_how_bad_it_is() -> None:
    """An error from one leak in a hundred held-out rows on; near-duplicates of short rows alone are a warning."""
    parts = ["train"] * 2 + ["valid"] * 50
    leaks = [Leak(2, 0, "same row", 1.0, 9), Leak(3, 1, "covered", 0.61, 30), Leak(9, 1, "passage", 0.2, 99)]
    leak, passage = found(leaks, parts, place_of)
    assert (leak.name, list(leak.rows), leak.severity) == ("split-leak", [2, 3], None)
    assert leak.texts == {2: "the same as f:1", 3: "61% of its words stand in runs of f:2"}
    assert leak.detail == "1 equal to a training row, 1 mostly made of runs of words of one; 50 rows are held out."
    assert (passage.name, list(passage.rows), passage.severity) == ("shared-passage", [9], "warning")
    (mild,) = found([Leak(2, 0, "near-duplicate", 0.9, 7)], parts, place_of)
    assert mild.severity == "warning"
    assert found([], parts, place_of) == []


def test_known_answers_on_real_data(shared: Path) -> None:
    """GSM8K's test set repeats no training row; nine of 1,319 rows share a passage, all of set phrases."""
    leaks = find(load(shared, "gsm8k_train.jsonl"), load(shared, "gsm8k_test.jsonl"))
    assert {leak.kind for leak in leaks} == {"passage"}
    assert len(leaks) == 9
    assert max(leak.overlap for leak in leaks) < 0.3
