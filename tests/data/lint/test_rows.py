"""The row rules together: what they say of real rows that are known to be clean or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

import attune
from attune.data.lint.catalog import RULES
from attune.data.lint.rows import RowOptions, lint_row, text_of
from attune.data.lint.view import RowView, view
from attune.types import Example, Message, Place
from tests.data.lint.surveyed import read_rows

PLACE = Place("rows.jsonl", 1, 0)


def flags(rows: Sequence[RowView]) -> Counter[str]:
    """How many rows each rule names."""
    return Counter(name for row in rows for name, _ in lint_row(row, RowOptions()))


def test_row_with_every_fault_is_named_once_by_each_rule() -> None:
    """A rule speaks at most once about a row, by a name of the catalog, in at most 120 characters."""
    cut = "A river begins where water gathers. " * 8 + "It flows down the hills and takes up brooks on the"
    messages = (
        Message("user", " "),
        Message("user", "[INST] Sum [/INST] and <|im_end|> mail lena.hofmann@gmx.de or tom.berger@gmx.de"),
        Message(
            "assistant", f"I am {{{{name}}}}. So\x08rry. postgres://admin:{'kTz3' * 4}@db.acme.io {'long ' * 90}{cut}"
        ),
    )
    found = lint_row(view(0, Example(PLACE, messages=messages)), RowOptions())
    names = [name for name, _ in found]
    assert sorted(names) == [
        "broken-characters",
        "empty-prompt",
        "personal-data",
        "placeholder",
        "role-order",
        "secret",
        "template-in-content",
        "truncated-answer",
    ]
    assert set(names) <= set(RULES)
    assert all(0 < len(seen) <= 120 and "\n" not in seen for _, seen in found)


def test_plain_text_has_no_turns_and_may_end_anywhere() -> None:
    """A row of plain text is not judged by its roles or its end, but by its markup."""
    text = "A river begins where water gathers. " * 8 + "It flows down the hills and takes up brooks on the"
    assert lint_row(view(0, Example(PLACE, text=text)), RowOptions()) == []
    assert [name for name, _ in lint_row(view(0, Example(PLACE, text=f"[INST] {text}")), RowOptions())] == [
        "template-in-content"
    ]


def test_tool_calls_and_reasoning_are_looked_at() -> None:
    """A secret in the arguments of a call or in the reasoning is found."""
    secret = "lena.hofmann@gmx.de"
    call = ({"id": "1", "function": {"name": "mail", "arguments": {"to": secret}}},)
    for answer in (
        Message("assistant", "", tool_calls=call),
        Message("assistant", "Yes.", reasoning=f"It is {secret}."),
    ):
        example = Example(PLACE, messages=(Message("user", "Write to her."), answer))
        assert secret in text_of(example)
        assert [name for name, _ in lint_row(view(0, example), RowOptions())] == ["personal-data"]


def test_special_tokens_of_the_tokenizer_count() -> None:
    """A tokenizer's own token is markup for that tokenizer."""
    row = view(0, Example(PLACE, messages=(Message("user", "Hi <my_end>"), Message("assistant", "Hello."))))
    assert lint_row(row, RowOptions()) == []
    assert lint_row(row, RowOptions(special_tokens=("<my_end>",)))[0][0] == "template-in-content"


@pytest.mark.parametrize("name", ["train", "valid", "test"])
def test_bundled_tickets_are_clean(name: str) -> None:
    """No row of the quickstart's task is flagged."""
    path = Path(attune.__file__).parent / "bundled" / "tickets" / f"{name}.jsonl"
    assert flags(read_rows(path)) == Counter()


@pytest.mark.parametrize(
    ("file", "known"),
    [
        ("gsm8k_train.jsonl", {"broken-characters": 1}),  # a zero-width space
        ("gsm8k_test.jsonl", {"broken-characters": 1}),  # another one
        ("gpteacher_codegen.json", {"broken-characters": 1, "sample-data": 34}),  # a degree sign that was not decoded
        ("llamafactory_identity.json", {"placeholder": 85}),
        ("llamafactory_alpaca_en_demo.json", {"truncated-answer": 10, "sample-data": 1}),
    ],
)
def test_real_rows(shared: Path, file: str, known: dict[str, int]) -> None:
    """Every flag on these sets was looked at, and is right."""
    assert flags(read_rows(shared / "data" / "sft" / file)) == Counter(known)


def test_real_labels_are_clean(shared: Path) -> None:
    """Ten thousand questions of bank customers hold no fault that a single row shows."""
    rows = read_rows(shared / "data" / "sft" / "banking77_train.csv", prompt="text", completion="category")
    assert flags(rows) == Counter()
