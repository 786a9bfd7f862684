"""Rows to look at: which ones, read again as they are, and what in them is learned."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from attune.config import Config
from attune.data.audit import Audit, audit
from attune.data.encoding.mask import Masker
from attune.data.encoding.template import open_template
from attune.data.encoding.tokenizer import load_tokenizer
from attune.data.lint.waivers import Waivers
from attune.data.view_rows import (
    OTHERS,
    PER_FINDING,
    choose_rows,
    fetch_examples,
    flags_of,
    short_text,
    show_rows,
    spread_rows,
)
from attune.types import Example, Message, Place
from tests.data.bad_inputs import write_tokenizer

FAULTY = ("Who are you?", "I am {{name}}, made by {{author}}.")


def pair(number: int) -> dict[str, str]:
    """A row like no other."""
    return {"prompt": f"What is {number} times {number}?", "completion": f"It is {number * number}, of course."}


def look(config: dict[str, Any]) -> tuple[Audit, Config]:
    """The audit of some files, without coverage."""
    settings = Config().with_values(config)
    return audit(settings, Waivers(), with_coverage=False), settings


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    """A JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def answers_of(examples: dict[int, Example]) -> dict[int, str]:
    """What each example answers."""
    return {number: example.messages[-1].content for number, example in examples.items()}


def talk(*messages: Message) -> Example:
    """A conversation at a place."""
    return Example(Place("a.jsonl", 1, 0), messages=messages)


def shown(example: Example, masker: Masker | None = None, mask: str = "completion") -> dict[str, Any]:
    """One row as it is shown."""
    (entry,) = show_rows({0: example}, {}, lambda _: "used", masker, mask=mask)
    return entry


def test_training_rows_are_spread_evenly(tmp_path: Path) -> None:
    """From first to last, each once, held-out rows never; more than there are gives all."""
    train = write(tmp_path / "a.jsonl", [pair(number) for number in range(20)])
    valid = write(tmp_path / "b.jsonl", [pair(number) for number in range(50, 55)])
    surveyed = look({"data.train": train, "data.valid": valid})[0].surveyed
    assert spread_rows(surveyed, 3) == [0, 9, 19]
    assert spread_rows(surveyed, 1) == [0]
    assert spread_rows(surveyed, 100) == list(range(20))


def test_some_rows_of_each_finding_are_chosen(tmp_path: Path) -> None:
    """The first rows that a rule found are there, and others spread over all but test sets."""
    faulty = [{"prompt": f"{FAULTY[0]} ({number})", "completion": FAULTY[1]} for number in range(20)]
    train = write(tmp_path / "a.jsonl", [*(pair(number) for number in range(300)), *faulty])
    test = write(tmp_path / "t.jsonl", [pair(number) for number in range(900, 940)])
    surveyed = look({"data.train": train, "data.test": [test]})[0].surveyed
    chosen = choose_rows(surveyed)
    assert chosen == sorted(set(chosen))
    assert max(chosen) < 320  # no row of the test set
    placeholder = next(found for found in surveyed.found if found.name == "placeholder")
    assert set(placeholder.rows[:PER_FINDING]) <= set(chosen)
    assert len(chosen) <= OTHERS + PER_FINDING * len(surveyed.found)
    assert flags_of(surveyed, [0, placeholder.rows[0]])[placeholder.rows[0]][0] == "placeholder"
    assert 0 not in flags_of(surveyed, [0])


def write_form(folder: Path, form: str, rows: list[dict[str, str]]) -> str:
    """Rows in a file of some form."""
    path = folder / f"rows.{form}"
    if form == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif form == "json":
        path.write_text(json.dumps(rows, indent=1))
    elif form == "parquet":
        arrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(arrow.Table.from_pylist(rows), path)
    else:
        lines = "".join(json.dumps(row) + "\n\n" for row in rows).encode()
        path.write_bytes(gzip.compress(lines) if form.endswith("gz") else lines)
    return str(path)


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "json", "csv", "parquet"])
def test_rows_are_found_again_in_every_form(tmp_path: Path, form: str) -> None:
    """A row read again is the row that was surveyed, in any kind of file, with cells of several lines."""
    rows = [{**pair(number), "completion": f"first\nsecond, \u00e9\n{number}"} for number in range(9)]
    audited, config = look({"data.train": write_form(tmp_path, form, rows)})
    found = fetch_examples(audited.surveyed, [8, 0, 4], config.data)
    assert answers_of(found) == {number: rows[number]["completion"] for number in (0, 4, 8)}
    assert all(audited.surveyed.places[number] == example.place for number, example in found.items())


def test_rows_of_several_files(tmp_path: Path) -> None:
    """Numbers run over all files, bad rows have none, and every number leads to its own row."""
    first = tmp_path / "a.jsonl"
    write(first, [pair(0), pair(1)])
    first.write_text(first.read_text() + "42\n" + json.dumps(pair(2)) + "\n")
    second = write(tmp_path / "b.jsonl", [pair(3), pair(4)])
    audited, config = look({"data.train": [str(first), second], "data.skip_bad_rows": 1})
    found = answers_of(fetch_examples(audited.surveyed, range(5), config.data))
    assert found == {number: pair(number)["completion"] for number in range(5)}
    assert fetch_examples(audited.surveyed, [], config.data) == {}


def test_whole_answers_are_marked_without_a_model() -> None:
    """Turns are pieces, answers are marked; no tokens are claimed."""
    ask, answer = Message("user", "a"), Message("assistant", "b", reasoning="why")
    entry = shown(talk(ask, answer))
    assert entry["pieces"] == [["user: ", 0], ["a", 0], ["\nassistant: ", 0], ["(why) b", 1]]
    assert (entry["tokens"], entry["learned"], entry["flags"]) == (None, None, [])
    assert shown(Example(Place("a", 1, 0), text="words"))["pieces"] == [["words", 1]]


TURNS = (Message("user", "q1"), Message("assistant", "a1"), Message("user", "q2"), Message("assistant", "a2"))
FLAGGED = (
    Message("user", "q1", train=True),
    Message("assistant", "a1", train=False),
    Message("user", "q2"),
    Message("assistant", "a2"),
    Message("user", "q3"),
    Message("assistant", "a3", weight=0.0),
)


@pytest.mark.parametrize(
    ("messages", "mask", "learned"),
    [
        (TURNS, "completion", {"a1", "a2"}),
        (TURNS, "last", {"a2"}),
        (TURNS, "all", {"q1", "a1", "q2", "a2"}),
        (FLAGGED, "completion", {"q1", "a2"}),
        (FLAGGED, "last", {"q1"}),
    ],
)
def test_the_same_turns_are_marked_with_and_without_a_model(
    tmp_path: Path, messages: tuple[Message, ...], mask: str, learned: set[str]
) -> None:
    """The mask mode, and the flags and weights of turns, count in both views."""
    bare = {text for text, is_learned in shown(talk(*messages), mask=mask)["pieces"] if is_learned}
    assert bare == learned
    template = open_template("plain", load_tokenizer(write_tokenizer(tmp_path / "t")))
    entry = shown(talk(*messages), Masker(template, mask))
    said = "".join(text for text, is_learned in entry["pieces"] if is_learned)
    assert all((message.content in said) == (message.content in learned) for message in messages)
    whole = "".join(text for text, _ in entry["pieces"])
    assert whole == template.render(talk(*messages)).text
    assert 0 < entry["learned"] < entry["tokens"] or mask == "all"


def test_a_row_that_the_template_refuses_says_why(tmp_path: Path) -> None:
    """Its turns are shown all the same, with the refusal at the end, which is not marked."""
    masker = Masker(open_template("plain", load_tokenizer(write_tokenizer(tmp_path / "t"))), "completion")
    example = Example(Place("a.jsonl", 7, 0), messages=TURNS, tools=({"type": "function"},))
    entry = shown(example, masker)
    assert entry["pieces"][1] == ["q1", 0]
    text, is_learned = entry["pieces"][-1]
    assert "a.jsonl:7 has tools" in text
    assert not is_learned
    assert entry["tokens"] is None


def test_rows_come_in_order_with_their_state_and_flags() -> None:
    """Rows stand in the order of their numbers, each with what is known about it."""
    examples = {number: Example(Place("a.jsonl", number, number), text="x") for number in (5, 2)}
    entries = show_rows(examples, {5: ["secret"]}, lambda place: "used" if place.line == 2 else "held_out", None)
    assert [(one["line"], one["state"], one["flags"]) for one in entries] == [
        (2, "used", []),
        (5, "held_out", ["secret"]),
    ]


def test_short_texts() -> None:
    """The last question and answer on one line, shortened where they are long."""
    assert short_text(talk(*TURNS)) == "q2 -> a2"
    assert short_text(Example(Place("a", 1, 0), text="some\n\n words ")) == "some words"
    long = short_text(talk(Message("user", "a " * 300), Message("assistant", "b")))
    assert len(long) == 200
    assert long.endswith("...")
