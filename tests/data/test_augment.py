"""Rows made of rows: they bear their parents' places, never cross the split, and the ledger reconciles with them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from attune.data import augment as augment_module
from attune.data.augment import variants_of
from attune.data.prepared import Prepared
from attune.errors import ConfigError
from attune.types import Example, Message, Place
from tests.data.sameness import kept_of
from tests.data.sets import chat, pair, prepare_config, settings_of, write_set

NAMES = "rain snow hail wind fog dew ice mud sand clay peat loam salt coal iron gold lead zinc tin amber jade opal"
THINGS = NAMES.split()


def orders(number: int = len(THINGS)) -> list[dict[str, Any]]:
    """Return rows that ask for different things in the same words."""
    return [pair(f"Describe the colour of {thing}.", f"It is as {thing} is.") for thing in THINGS[:number]]


def prepared_of(folder: Path, rows: list[dict[str, Any]], **values: Any) -> Prepared:
    """Return rows prepared with two variants of each."""
    name = write_set(folder / "rows.jsonl", rows)
    return prepare_config(settings_of(name, **{"data.augment": 2, **values}), folder)


def texts_of(prepared: Prepared, first: int = 0) -> list[str]:
    """Return the training rows from one on as text."""
    rows = range(first, prepared.train.num_rows)
    return [prepared.template.tokenizer.decode(prepared.train.row(row)[0].tolist()) for row in rows]


def answers_of(prepared: Prepared) -> list[str]:
    """Return what is learned of each training row as text."""
    rows = (prepared.train.row(row) for row in range(prepared.train.num_rows))
    return [prepared.template.tokenizer.decode(tokens[learned].tolist()) for tokens, learned in rows]


def test_variants_follow_the_rows_and_teach_the_same(tmp_path: Path) -> None:
    """Each row has its two variants at the end of the corpus: at its place, with its answer, in other words."""
    prepared = prepared_of(tmp_path, orders())
    count = len(THINGS)
    assert prepared.train.num_rows == 3 * count
    assert len(prepared.augmented) == prepared.ledger.augmented == 2 * count
    parents = [place.line for place in prepared.train.places[count:]]
    assert Counter(parents) == dict.fromkeys(range(1, count + 1), 2)
    answers, texts = answers_of(prepared), texts_of(prepared)
    assert len(set(texts)) == len(texts)
    for made, parent in enumerate(parents, start=count):
        assert answers[made] == answers[parent - 1]
        assert THINGS[parent - 1] in texts[made]
    plain = prepare_config(settings_of(str(tmp_path / "rows.jsonl")), tmp_path)
    assert texts[:count] == texts_of(plain)
    assert prepared.notes == (f"augmented: {2 * count} reworded rows of {count} of {count} training rows",)


def test_ledger_reconciles_and_names_parents(tmp_path: Path) -> None:
    """Input rows are counted as before; tokens of the variants are counted apart; each line names its parent."""
    rows = [*orders(), pair("long " * 80, "short")]
    values = {"data.max_length": 200, "data.overlong": "cut"}
    prepared, plain = (prepared_of(tmp_path, rows, **{"data.augment": n}, **values) for n in (2, 0))
    ledger = prepared.ledger
    ledger.check()
    assert (ledger.rows, ledger.counts, ledger.tokens_in) == (
        plain.ledger.rows, plain.ledger.counts, plain.ledger.tokens_in
    )  # fmt: skip
    made = prepared.train.offsets[-1] - plain.train.offsets[-1]
    assert ledger.tokens_augmented == made > 0
    assert ledger.tokens_learned == prepared.train.num_learned > plain.ledger.tokens_learned
    assert ledger.tokens_lost == plain.ledger.tokens_lost > 0
    lines = list(prepared.ledger_lines())
    assert lines[: ledger.rows] == list(plain.ledger_lines())
    assert len(lines) == ledger.rows + ledger.augmented
    file = str(tmp_path / "rows.jsonl")
    for line, edit in zip(lines[ledger.rows :], prepared.augmented, strict=True):
        own = lines[int(str(line["line"])) - 1]
        assert line == {**own, "state": "augmented", "reason": edit, "parent": f"{file}:{own['line']}"}
        assert own["state"] == "used"  # the row that was cut has none


def test_variants_never_cross_the_split(tmp_path: Path) -> None:
    """Held-out rows are those of a run without variants, and no variant is made of one or asks what one asks."""
    values = {"data.valid_share": 0.3, "seed": 3}
    prepared, plain = (prepared_of(tmp_path, orders(), **{"data.augment": n}, **values) for n in (3, 0))
    assert prepared.valid is not None
    assert plain.valid is not None
    assert prepared.valid.tokens.tobytes() == plain.valid.tokens.tobytes()
    held = {place.line for place in prepared.valid.places}
    assert len(held) > 2
    assert not held & {place.line for place in prepared.train.places}
    asked = {example.messages[0].content.rstrip(".").split()[-1] for example in prepared.valid_examples}
    assert not any(thing in text.split() for text in texts_of(prepared) for thing in asked)


def test_a_variant_that_another_row_asks_is_dropped(tmp_path: Path) -> None:
    """What a held-out row or another training row asks, up to case and marks, is asked by no variant."""
    everything = {f"{edit}": text for edit, text in _all_variants("Describe the colour of rain.")}
    assert len(everything) > 12
    taken = {"please", "could you", "task"}
    held = write_set(tmp_path / "held.jsonl", [pair(everything[name].upper(), "No.") for name in taken])
    test = write_set(tmp_path / "test.jsonl", [pair(everything["need"] + "!", "No.")])
    rows = [*orders(1), pair(everything["greeting"], "Another answer.")]
    prepared = prepared_of(tmp_path, rows, **{"data.augment": 40, "data.valid": held, "data.test": [test]})
    made = {edit for edit, place in zip(prepared.augmented, prepared.train.places[2:], strict=True) if place.line == 1}
    ways = {edit.split(", ")[-1] for edit in made}
    assert ways == {edit.split(", ")[-1] for edit in everything} - taken - {"need", "greeting"}


def _all_variants(text: str) -> list[tuple[str, str]]:
    """Return every variant of a question."""
    example = Example(Place("f", 1, 0), (Message("user", text), Message("assistant", "It is as rain is.")))
    return [(edit, variant.messages[0].content) for edit, variant in variants_of(example, 40, 0)]


def test_a_row_whose_own_copy_is_held_out_has_no_variants_like_it(tmp_path: Path) -> None:
    """Where a held-out row asks the same as a training row, variants that differ in marks alone are dropped, too."""
    held = write_set(tmp_path / "held.jsonl", [pair("describe the colour of rain", "No.")])
    prepared = prepared_of(tmp_path, orders(1), **{"data.augment": 40, "data.valid": held})
    assert prepared.augmented
    assert not {"small letter", "no final mark"} & set(prepared.augmented)


def test_only_the_last_question_changes(tmp_path: Path) -> None:
    """In a conversation the system prompt, earlier turns and all answers stay; a learned question stays as it is."""
    turns: list[tuple[str, str, dict[str, bool]]] = [
        ("system", "You are a guide.", {}),
        ("user", "Describe the sea.", {}),
        ("assistant", "It is wide.", {}),
        ("user", "Describe the shore.", {}),
        ("assistant", "It is long.", {}),
    ]
    learned = [*turns[:3], ("user", "Describe the shore.", {"train": True}), turns[4]]
    prepared = prepared_of(tmp_path, [chat(*turns), chat(*learned, source="other")], **{"data.duplicates": "keep"})
    assert {place.line for place in prepared.train.places[2:]} == {1}
    for text in texts_of(prepared, 2):
        for kept in ("You are a guide.", "Describe the sea.", "It is wide.", "It is long."):
            assert kept in text
        assert "shore" in text


def test_weights_copies_and_sources_come_along(tmp_path: Path) -> None:
    """A variant weighs what its parent weighs, comes as often, and is of the same source."""
    rows = orders(6)
    rows[1] |= {"weight": 0.5, "source": "forum"}
    a, b = write_set(tmp_path / "a.jsonl", rows), write_set(tmp_path / "b.jsonl", orders()[6:])
    train = [{"path": a, "weight": 2.0, "name": "mine"}, b]
    corpus = prepare_config(settings_of(train, **{"data.augment": 1}), tmp_path).train
    assert corpus.copies is not None
    assert corpus.weights is not None
    by_place = {(place.file, place.line): row for row, place in enumerate(corpus.places[: len(THINGS)])}
    assert corpus.num_rows == 2 * len(THINGS)
    for row in range(len(THINGS), corpus.num_rows):
        parent = by_place[corpus.places[row].file, corpus.places[row].line]
        assert corpus.copies[row] == corpus.copies[parent]
        assert corpus.sources[row] == corpus.sources[parent]
        own, other = (set(corpus.weights[corpus.offsets[at] : corpus.offsets[at + 1]].tolist()) for at in (row, parent))
        assert own == other


def test_the_same_to_the_bit_and_from_the_cache(tmp_path: Path) -> None:
    """The same seed makes the same rows; the cache gives them back with edits and notes; other rows move none."""
    values = {"data.cache": str(tmp_path / "cache"), "data.valid_share": 0.2}
    first, second = (prepared_of(tmp_path, orders(), **values) for _ in range(2))
    assert "found in the cache" in second.notes[0]
    assert kept_of(first) == kept_of(second)
    assert first.notes[1:] == second.notes[1:] != ()
    fewer = prepared_of(tmp_path, orders(12))
    longer = prepared_of(tmp_path, orders())
    assert set(texts_of(fewer)) < set(texts_of(longer))
    assert set(texts_of(prepared_of(tmp_path, orders(), seed=1))) != set(texts_of(longer))


def test_rows_to_look_at_show_variants(tmp_path: Path) -> None:
    """The rows to look at hold some variants and say that they are."""
    states = [row["state"] for row in prepared_of(tmp_path, orders()).preview]
    assert states.count("augmented") >= 3
    assert states.count("used") >= 2


def test_no_variant_is_longer_than_the_limit(tmp_path: Path) -> None:
    """A variant that would have to be cut is not made."""
    longest = int(prepared_of(tmp_path, orders(), **{"data.augment": 0}).train.lengths.max())
    prepared = prepared_of(tmp_path, orders(), **{"data.augment": 40, "data.max_length": longest})
    assert prepared.augmented
    assert prepared.train.lengths.max() <= longest
    prepared.ledger.check()


def test_copies_of_a_row_have_other_variants(tmp_path: Path) -> None:
    """Rows that repeat one another draw the same variants, yet no two that are trained on are the same."""
    prepared = prepared_of(tmp_path, orders(3) * 2)
    assert len(set(texts_of(prepared, 6))) == len(prepared.augmented) > 6


def test_large_sets_are_refused_and_many_rows_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit the wish is refused in words; from many rows on a note says that it seldom helps."""
    monkeypatch.setattr(augment_module, "MANY_ROWS", 10)
    assert "seldom helps" in prepared_of(tmp_path, orders()).notes[1]
    monkeypatch.setattr(augment_module, "MOST_ROWS", 20)
    with pytest.raises(ConfigError, match=r"data.augment is 2.*at most 20 .*\n.*data.augment = 0") as caught:
        prepared_of(tmp_path, orders())
    assert f"has {len(THINGS)}" in str(caught.value)


def test_plain_text_is_refused(tmp_path: Path) -> None:
    """Rows without an instruction cannot be reworded: the wish is refused, not passed over."""
    with pytest.raises(ConfigError, match="plain text"):
        prepared_of(tmp_path, [{"text": f"The colour of {thing} is {thing}."} for thing in THINGS])


def test_rows_without_a_safe_rewording_are_told(tmp_path: Path) -> None:
    """Rows that stay alone are counted in the note."""
    prepared = prepared_of(tmp_path, [*orders(4), pair('{"a": 1}', "one"), pair("x = 1", "two")])
    assert len(prepared.augmented) == 8
    assert "8 reworded rows of 4 of 6 training rows; 2 cannot be reworded" in prepared.notes[0]
