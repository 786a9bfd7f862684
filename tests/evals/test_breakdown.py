"""The loss in parts: every learned token in one part of each kind, and the rows at both ends with their tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from attune.data.corpus import Corpus, Places
from attune.evals.breakdown import MOST_PIECES, break_down, extremes
from attune.evals.heldout import Measured, measure, predicted_tokens, rows_of
from attune.types import Place
from tests.tiny import make_corpus, make_model, make_tokenizer

KINDS = ("source", "turn", "position", "length")


def marked(rows: Sequence[str], sources: Sequence[str]) -> Corpus:
    """Return rows written as marks: each letter is a token, the large ones are learned."""
    text = "".join(rows)
    offsets = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    places = Places.of([Place("rows.jsonl", line + 1, 0) for line in range(len(rows))])
    tokens = np.frombuffer(text.lower().encode(), np.uint8).astype(np.int32)
    learned = np.array([letter.isupper() for letter in text])
    return Corpus(tokens, learned, offsets, places, tuple(sources))


def figures(corpus: Corpus, nats: Sequence[float], right: Sequence[bool]) -> Measured:
    """Return the measurement whose learned tokens have these losses."""
    loss = np.array(nats, np.float32)
    rows = rows_of(corpus)[predicted_tokens(corpus)]
    counts = np.bincount(rows, minlength=corpus.num_rows)
    sums = np.bincount(rows, weights=loss, minlength=corpus.num_rows)
    of_row = np.divide(sums, counts, out=np.full(corpus.num_rows, np.nan), where=counts > 0)
    return Measured(float(loss.mean()), float(np.mean(right)), len(loss), of_row, loss, np.array(right), 0.0)


def parts_by(kind: str, parts: Sequence[dict[str, object]]) -> dict[object, tuple[object, ...]]:
    """Return the figures of one kind by name."""
    return {
        part["name"]: (part["rows"], part["tokens"], part["loss"], part["accuracy"])
        for part in parts
        if part["by"] == kind
    }


def test_parts_say_what_was_counted_by_hand() -> None:
    """Two rows, one of two turns: the figures of every part by source, turn, position and length."""
    corpus = marked(["aABBccDD", "aaE", "aa"], ["chat", "notes", "chat"])
    parts = break_down(corpus, figures(corpus, [1, 2, 3, 4, 5, 9], [True, True, False, True, False, False]))
    assert parts_by("source", parts) == {"chat": (1, 5, 3.0, 0.6), "notes": (1, 1, 9.0, 0.0)}
    assert parts_by("turn", parts) == {"1": (2, 4, 3.75, 0.5), "2": (1, 2, 4.5, 0.5)}
    assert parts_by("position", parts) == {
        "first": (2, 3, pytest.approx(14 / 3), pytest.approx(2 / 3)),
        "2-4": (1, 3, pytest.approx(10 / 3), pytest.approx(1 / 3)),
    }
    assert parts_by("length", parts) == {"3-4": (1, 1, 9.0, 0.0), "5-8": (1, 5, 3.0, 0.6)}


def test_each_kind_holds_every_learned_token_once() -> None:
    """Whatever the rows, the parts of each kind add up to the loss and accuracy of the whole corpus."""
    corpus = make_corpus([9, 4, 17, 2, 1, 30, 12, 100])
    measured = measure(make_model(), corpus, micro_tokens=200)
    parts = break_down(corpus, measured)
    for kind in KINDS:
        own = [part for part in parts if part["by"] == kind]
        assert sum(part["tokens"] for part in own) == measured.tokens
        total = sum(part["tokens"] * part["loss"] for part in own)
        assert total / measured.tokens == pytest.approx(measured.loss, rel=1e-6)
        right = sum(part["tokens"] * part["accuracy"] for part in own)
        assert right / measured.tokens == pytest.approx(measured.accuracy)
    lengths = [part["name"] for part in parts if part["by"] == "length"]
    assert lengths == ["3-4", "9-16", "17-32", "65-128"]
    assert [part["name"] for part in parts if part["by"] == "position"] == ["first", "2-4", "5-16", "17-64"]


def test_many_sources_and_turns_count_together() -> None:
    """Beyond the largest sources, and beyond the eighth turn, parts are one."""
    corpus = marked(["aB" * 12, *["aBB"] * 35], ["talk", *(f"source {number}" for number in range(35))])
    count = len(predicted_tokens(corpus))
    parts = break_down(corpus, figures(corpus, [1.0] * count, [True] * count))
    sources = parts_by("source", parts)
    assert len(sources) == 31
    assert sources["6 others"] == (6, 12, 1.0, 1.0)
    assert parts_by("turn", parts)["9+"] == (1, 4, 1.0, 1.0)


def test_nothing_learned_has_no_parts() -> None:
    """A corpus that teaches nothing has no parts and no rows at either end."""
    corpus = make_corpus([1, 1])
    nothing = measure(make_model(), corpus, micro_tokens=10)
    assert break_down(corpus, nothing) == []
    assert extremes(corpus, nothing, None, str) == {"worst": [], "best": []}


def decode_letters(ids: Sequence[int]) -> str:
    """Return the text of the letters of `marked`."""
    return bytes(ids).decode()


def test_extremes_are_the_rows_of_highest_and_lowest_loss() -> None:
    """Worst first and best first, no row in both, with the base model's loss where it is known."""
    corpus = marked(["aB", "aC", "aa", "aD", "aaEE"], ["x"] * 5)
    found = extremes(corpus, figures(corpus, [1, 5, 3, 2, 2], [True] * 5), [0.5, None, None], decode_letters, count=2)
    assert [row["line"] for row in found["worst"]] == [2, 4]
    assert [row["line"] for row in found["best"]] == [1, 5]
    assert [row["base_loss"] for row in found["worst"] + found["best"]] == [None, None, 0.5, None]
    assert found["best"][1] == {
        "file": "rows.jsonl", "line": 5, "loss": 2.0, "base_loss": None, "tokens": 4,
        "pieces": [["a", None], ["a", None], ["e", 2.0], ["e", 2.0]],
    }  # fmt: skip
    few = extremes(corpus, figures(corpus, [1, 5, 3, 2, 2], [True] * 5), None, decode_letters)
    assert [row["line"] for row in few["worst"]] == [2, 4]
    assert [row["line"] for row in few["best"]] == [1, 5]


def test_a_long_row_is_shown_around_its_learned_tokens() -> None:
    """Of a row of thousands of tokens, 600 pieces are shown, and the learned ones are among them."""
    corpus = marked(["a" * 2000 + "BBB" + "c" * 3000], ["x"])
    row = extremes(corpus, figures(corpus, [1, 2, 3], [True] * 3), None, decode_letters)["worst"][0]
    assert len(row["pieces"]) == MOST_PIECES
    assert [piece for piece in row["pieces"] if piece[1] is not None] == [["b", 1.0], ["b", 2.0], ["b", 3.0]]
    assert row["pieces"][0] == ["a", None]


def test_a_character_of_several_tokens_is_one_piece() -> None:
    """Bytes of one character are shown as that character, their losses added; broken bytes do not swallow the row."""
    tokenizer = make_tokenizer()
    start, broken = tokenizer.encode("n\xe9").ids, tokenizer.encode("\xe9").ids[:1]
    ids = np.array([*start, *broken * 5, *tokenizer.encode("ok").ids], np.int32)
    learned = np.arange(len(ids)) > 0
    corpus = Corpus(ids, learned, np.array([0, len(ids)]), Places.of([Place("f", 1, 0)]), ("x",))
    measured = figures(corpus, np.arange(1, len(ids)).tolist(), [True] * (len(ids) - 1))
    pieces = extremes(corpus, measured, None, tokenizer.decode)["worst"][0]["pieces"]
    assert pieces[:2] == [["n", None], ["\xe9", 3.0]]
    assert pieces[-1] == ["k", float(len(ids) - 1)]
    assert sum(loss for _, loss in pieces if loss is not None) == pytest.approx(measured.token_loss.sum())
