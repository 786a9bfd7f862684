"""An answer that leaves the format of its task is named, and one with a task of its own is not."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from attune.bundled import tickets_folder
from attune.data.lint.catalog import Found
from attune.data.lint.structure import Structure
from attune.data.lint.thresholds import DEFAULT
from attune.data.lint.view import RowView, view
from attune.errors import ConfigError
from attune.types import Example, Message, Place
from tests.data.lint.surveyed import by_name, read_rows, rows_of


def ticket_pairs(count: int = 300) -> list[tuple[str, str]]:
    """The first bundled tickets as (question, answer)."""
    lines = (tickets_folder() / "train.jsonl").read_text(encoding="utf-8").split("\n")[:count]
    return [(row["prompt"], row["completion"]) for row in map(json.loads, lines)]


def find(rows: Sequence[RowView], schema: dict[str, object] | None = None) -> dict[str, Found]:
    """What is found in rows, by rule."""
    structure = Structure(DEFAULT, schema)
    for row in rows:
        structure.take(row)
    assert sum(structure.formats().values()) == len(rows)
    return by_name(structure.found())


def change(text: str, **changes: object) -> str:
    """A ticket with some fields changed, or taken out where they are "drop"."""
    value = {**json.loads(text), **changes}
    return json.dumps({key: cell for key, cell in value.items() if cell != "drop"}, separators=(",", ":"))


BREAKS: dict[str, Callable[[str], str]] = {
    "comma": lambda text: text[:-1] + ",}",
    "cut": lambda text: text[:-9],
    "single quotes": lambda text: text.replace('"', "'"),
    "bare keys": lambda text: text.replace('"product"', "product").replace('"issue"', "issue"),
    "twice": lambda text: '{"issue":"late",' + text[1:],
    "fence": lambda text: f"```json\n{text}\n```",
    "words before": lambda text: f"Here is the ticket: {text}",
    "words behind": lambda text: f"{text}\nI hope this helps.",
    "text for a number": lambda text: change(text, order="12345"),
    "object for a text": lambda text: change(text, product={"name": "Star"}),
    "field missing": lambda text: change(text, urgency="drop"),
    "list": lambda text: f"[{text}]",
}


@pytest.mark.parametrize("kind", BREAKS)
def test_each_break_is_found_and_nothing_else(kind: str) -> None:
    """Of 300 tickets with one broken answer that one is named, as broken and not as another format."""
    pairs = ticket_pairs()
    pairs[123] = (pairs[123][0], BREAKS[kind](pairs[123][1]))
    found = find(rows_of(pairs))
    assert {name: list(one.rows) for name, one in found.items()} == {"broken-structure": [123]}
    assert found["broken-structure"].texts[123]


OTHERS = {
    "prose": "The customer wants a refund for the Star pullover.",
    "yaml": "product: Star pullover\nissue: late\nurgency: high",
    "table": "| product | issue |\n|---|---|\n| Star pullover | late |",
    "xml": "<ticket><product>Star pullover</product></ticket>",
    "label": "refund",
}


@pytest.mark.parametrize("kind", OTHERS)
def test_another_format_is_mixed_and_not_broken(kind: str) -> None:
    """Three answers in another format among 300 tickets are named as that."""
    pairs = ticket_pairs()
    for at in (7, 99, 250):
        pairs[at] = (pairs[at][0], OTHERS[kind])
    found = find(rows_of(pairs))
    assert {name: list(one.rows) for name, one in found.items()} == {"mixed-format": [7, 99, 250]}
    assert "99.0% of the 300 answers of their task are JSON" in found["mixed-format"].detail


def test_the_tickets_are_clean() -> None:
    """The bundled tickets obey their schema and each other."""
    rows = read_rows(tickets_folder() / "train.jsonl")
    schema = json.loads((tickets_folder() / "schema.json").read_text(encoding="utf-8"))
    assert find(rows) == {}
    assert find(rows, schema) == {}


def test_the_users_schema_is_held_against_json() -> None:
    """An answer that only the schema forbids is named with the field."""
    pairs = ticket_pairs()
    pairs[5] = (pairs[5][0], change(pairs[5][1], urgency="urgent"))
    schema = json.loads((tickets_folder() / "schema.json").read_text(encoding="utf-8"))
    assert find(rows_of(pairs)) == {}
    found = find(rows_of(pairs), schema)
    assert list(found["broken-structure"].rows) == [5]
    assert "urgency" in found["broken-structure"].texts[5]


def test_a_schema_that_is_none_is_refused() -> None:
    """A schema that cannot be opened is an error of the user's, with a reason."""
    with pytest.raises(ConfigError, match="not a JSON Schema"):
        Structure(DEFAULT, {"type": "thing"})


def test_two_tasks_in_one_file_are_two_tasks() -> None:
    """Prose answers to other questions are no strays, even where most of the file is JSON."""
    chat = [
        (f"What do you think of the {n}th king of the old kingdom by the sea?", "He ruled well and long, people say.")
        for n in range(50)
    ]
    assert find(rows_of(ticket_pairs() + chat)) == {}


def test_tasks_are_told_by_their_system_prompt() -> None:
    """A task that is a tenth of the set is known by its system prompt, and its stray is found."""
    tickets = ticket_pairs(100)
    tickets[40] = (tickets[40][0], OTHERS["prose"])
    chat = [
        (f"Tell me about place number {n}, as you like.", f"Place {n} lies far behind the hills. Few go there.")
        for n in range(900)
    ]
    rows = rows_of(tickets, system="Note the ticket as JSON.") + rows_of(chat)
    rows = [row._replace(number=at) for at, row in enumerate(rows)]
    assert list(find(rows)["mixed-format"].rows) == [40]


def test_sentences_among_labels_are_mixed() -> None:
    """In a set of labels a sentence is another format; a rare label is not."""
    pairs = [(f"What is this text about, number {n}?", ("sports", "politics", "science")[n % 3]) for n in range(300)]
    pairs[10] = (pairs[10][0], "The text is about sports and the people who do it.")
    pairs[20] = (pairs[20][0], "weather")
    assert {name: list(one.rows) for name, one in find(rows_of(pairs)).items()} == {"mixed-format": [10]}


def test_a_field_that_may_be_null_or_a_fraction_is_no_fault() -> None:
    """A null stands for a field that has no value, and 2.5 is as much a number as 2."""
    pairs = [
        (f"Item {n}?", json.dumps({"id": n, "price": 2.5 if n == 3 else 2, "note": None if n == 4 else "x"}))
        for n in range(200)
    ]
    assert find(rows_of(pairs)) == {}


def test_optional_and_nested_fields() -> None:
    """A field in nine of ten answers may be absent; one in a nested list that all have may not."""
    pairs = []
    for n in range(200):
        items = [{"sku": f"s{n}", "qty": n}, {"sku": "t", "qty": 1}]
        value: dict[str, object] = {"id": n, "items": items} | ({"memo": "m"} if n % 10 else {})
        if n == 77:
            del items[1]["qty"]
        if n == 88:
            items[0]["qty"] = "88"
        pairs.append((f"Order {n}?", json.dumps(value)))
    found = find(rows_of(pairs))["broken-structure"]
    assert list(found.rows) == [77, 88]
    assert "items[].qty" in found.texts[77]
    assert "items[].qty" in found.texts[88]


def test_every_answer_of_a_conversation_is_judged() -> None:
    """A broken answer in the middle of a conversation is found in its row."""
    pairs = iter(ticket_pairs(120))
    rows = []
    for number in range(40):
        turns = [
            Message(role, text)
            for pair in (next(pairs), next(pairs), next(pairs))
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
        if number == 17:
            turns[3] = Message("assistant", turns[3].content[:-1])
        rows.append(view(number, Example(Place("a.jsonl", number + 1, 0), tuple(turns))))
    assert {name: list(one.rows) for name, one in find(rows).items()} == {"broken-structure": [17]}


def test_nothing_is_found_in_nothing() -> None:
    """No rows, plain text and rows whose answer is a call alone give no finding and do not fail."""
    assert find([]) == {}
    text = view(0, Example(Place("a.jsonl", 1, 0), text="Once upon a time."))
    assert find([text]) == {}


@pytest.mark.parametrize(
    "name",
    ["gpteacher_codegen.json", "gsm8k_train.jsonl", "llamafactory_alpaca_en_demo.json", "llamafactory_identity.json"],
)
def test_real_sets_without_a_format_have_no_finding(shared: Path, name: str) -> None:
    """Code, maths and chat are not held to a format that nobody gave them."""
    assert find(read_rows(shared / "data" / "sft" / name)) == {}


def test_banking_labels_are_clean(shared: Path) -> None:
    """A classification set has one format."""
    rows = read_rows(shared / "data" / "sft" / "banking77_train.csv", prompt="text", completion="category")
    assert find(rows) == {}
