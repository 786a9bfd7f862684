"""The validation rows: chosen by content, so that a grown file keeps them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import orjson

from attune.config import Config
from attune.data import split
from attune.data.encoding.tokenizer import load_tokenizer
from attune.data.prepare import Prepared, prepare
from attune.data.split import draw
from attune.types import Example, Message, Place
from tests.data.bad_inputs import write_tokenizer


def row(number: int) -> dict[str, str]:
    """Return one of many different rows."""
    return {"question": f"What is {number} + 1?", "answer": str(number + 1)}


def prepare_rows(rows: list[dict[str, str]], folder: Path, **settings: object) -> Prepared:
    """Return rows prepared with a tokenizer of bytes."""
    path = folder / "rows.jsonl"
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    config = Config().with_values({"data.train": str(path), **settings})
    return prepare(config, load_tokenizer(write_tokenizer(folder / "t")), model_length=None)


def held_out(prepared: Prepared) -> set[str]:
    """Return the questions of the held-out rows."""
    return {example.messages[0].content for example in prepared.valid_examples}


def test_adding_rows_moves_no_other_row(tmp_path: Path) -> None:
    """Rows keep their side when others are added, taken away or put in another order."""
    few = prepare_rows([row(number) for number in range(300)], tmp_path)
    more = prepare_rows([row(number) for number in reversed(range(400))], tmp_path)
    assert held_out(few) == {question for question in held_out(more) if int(question.split()[2]) < 300}
    assert 5 <= len(held_out(few)) <= 30


def test_equal_rows_stand_on_one_side(tmp_path: Path) -> None:
    """Copies of a row are never on both sides."""
    prepared = prepare_rows([row(number % 50) for number in range(200)], tmp_path)
    train = {prepared.entries[n].place.line % 50 for n in range(200) if prepared.entries[n].state == "used"}
    valid = {prepared.entries[n].place.line % 50 for n in range(200) if prepared.entries[n].state == "held_out"}
    assert valid
    assert not train & valid


def test_another_seed_holds_out_other_rows(tmp_path: Path) -> None:
    """The seed decides too."""
    rows = [row(number) for number in range(300)]
    assert held_out(prepare_rows(rows, tmp_path)) != held_out(prepare_rows(rows, tmp_path, seed=1))


def test_valid_rows_is_the_most_that_is_held_out(tmp_path: Path) -> None:
    """The setting limits the rows and their examples alike; those that stay are the same rows as without it."""
    rows = [row(number) for number in range(300)]
    few = prepare_rows(rows, tmp_path, **{"data.valid_share": 0.5, "data.valid_rows": 7})
    many = prepare_rows(rows, tmp_path, **{"data.valid_share": 0.5})
    assert few.valid is not None
    assert few.valid.num_rows == len(held_out(few)) == few.ledger.counts["held_out"] == 7
    assert held_out(few) < held_out(many)


def test_at_most_the_limit_and_at_least_one() -> None:
    """A large file gives the most there may be, one of 20 rows at least one, a smaller one perhaps none."""
    draws = np.random.default_rng(0).random(50_000)
    choose_held_out = partial(split.choose_held_out, most=200)
    assert choose_held_out(draws, 0.05).sum() == 200
    high = np.linspace(0.5, 0.9, 20)
    assert choose_held_out(high, 0.01).sum() == 1
    assert choose_held_out(high[:19], 0.01).sum() == 0
    assert choose_held_out(high, 0.0).sum() == 0
    assert choose_held_out(np.zeros(1000), 0.05).sum() == 0  # all rows equal: none can be held out


def test_held_out_examples_are_those_of_the_valid_corpus(tmp_path: Path) -> None:
    """Examples and corpus of the validation rows agree row by row."""
    prepared = prepare_rows([row(number) for number in range(300)], tmp_path)
    assert prepared.valid is not None
    assert [example.place for example in prepared.valid_examples] == list(prepared.valid.places)


def test_a_draw_depends_on_all_words() -> None:
    """Rows that differ in one answer draw differently; the place in the file does not matter."""
    one = Example(Place("a", 1, 0), messages=(Message("user", "q"), Message("assistant", "a")))
    same = Example(Place("b", 9, 99), messages=one.messages)
    other = Example(Place("a", 1, 0), messages=(Message("user", "q"), Message("assistant", "b")))
    assert draw(one, 0) == draw(same, 0) != draw(other, 0)
    assert 0 <= draw(one, 5) < 1
