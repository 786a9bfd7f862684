"""From rows to examples: weights and sources of rows, weights of turns, and which rule a bad row breaks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attune.config import Config, DataConfig
from attune.data.lint.catalog import RULES
from attune.data.reading.intake import Intake, LeftOut
from attune.data.reading.line import BadRow
from attune.types import Example

LAYOUTS: tuple[dict[str, Any], ...] = (
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
    {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    {"prompt": "q", "completion": "a"},
    {"instruction": "q", "output": "a"},
    {"question": "q", "answer": "a"},
    {"text": "q a"},
)
EVERY_LAYOUT = pytest.mark.parametrize("row", LAYOUTS, ids=[next(iter(row)) for row in LAYOUTS])


def settings(**values: object) -> DataConfig:
    """Return data settings."""
    return Config().with_values({f"data.{key}": value for key, value in values.items()}).data


def take(
    folder: Path, *rows: dict[str, Any] | str, config: DataConfig | None = None, source: str = ""
) -> tuple[Intake, list[Example | LeftOut | BadRow]]:
    """Return an intake of these rows that was read to its end, and what came out."""
    path = folder / "rows.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    intake = Intake(str(path), config or settings(), source=source)
    return intake, list(intake.stream())


def example_of(folder: Path, row: dict[str, Any], **more: Any) -> Example:
    """Return the example of one row."""
    _, (example,) = take(folder, row, **more)
    assert isinstance(example, Example), example
    return example


def fault_of(folder: Path, row: dict[str, Any] | str) -> BadRow:
    """Return what is wrong with a row, read after a good one of the same layout."""
    _, (_, bad) = take(folder, LAYOUTS[0], row)
    assert isinstance(bad, BadRow), bad
    return bad


@EVERY_LAYOUT
def test_rows_have_weight_and_source(row: dict[str, Any], tmp_path: Path) -> None:
    """In every layout a row may have a weight and a source; without them it is 1 and the source's name or the file."""
    example = example_of(tmp_path, row | {"weight": 0.25, "source": "made up"})
    assert (example.weight, example.source) == (0.25, "made up")
    plain = example_of(tmp_path, row)
    assert (plain.weight, plain.source) == (1.0, plain.place.file)
    named = example_of(tmp_path, row | {"weight": None, "source": ""}, source="set A")
    assert (named.weight, named.source) == (1.0, "set A")


@EVERY_LAYOUT
def test_weight_0_leaves_a_row_out(row: dict[str, Any], tmp_path: Path) -> None:
    """A row of weight 0 is no fault: it is left out, counted and gets its reason."""
    intake, (first, second) = take(tmp_path, row, row | {"weight": 0})
    assert isinstance(first, Example)
    assert isinstance(second, LeftOut) and second.reason == "weight 0"
    assert [place.line for place in intake.weightless] == [2]
    assert not intake.bad and not intake.empty


@pytest.mark.parametrize("weight", [-1, "2", True, [1], "NaN"])
def test_odd_weights_are_bad_rows(weight: object, tmp_path: Path) -> None:
    """A weight that is no number from 0 is refused, and the message says how to leave such a column alone."""
    bad = fault_of(tmp_path, LAYOUTS[0] | {"weight": weight})
    assert "weight must be a number from 0, found" in bad.text
    assert 'data.columns.weight = ""' in bad.text
    example = example_of(tmp_path, LAYOUTS[0] | {"weight": weight}, config=settings(columns={"weight": ""}))
    assert example.weight == 1.0


@pytest.mark.parametrize("weight", ["NaN", "-Infinity", "1e999"])
def test_a_weight_that_json_cannot_write_is_a_bad_row(weight: str, tmp_path: Path) -> None:
    """NaN and infinity are refused as weights of rows and of turns; elsewhere such numbers are no matter."""
    row = json.dumps(LAYOUTS[0])
    assert fault_of(tmp_path, row.replace('{"messages"', f'{{"weight": {weight}, "messages"')).kind == "weight"
    assert fault_of(tmp_path, row.replace('"content": "a"', f'"content": "a", "weight": {weight}')).kind == "weight"
    _, (example,) = take(tmp_path, row.replace('{"messages"', f'{{"score": {weight}, "messages"'))
    assert isinstance(example, Example)


def test_columns_name_weight_and_source(tmp_path: Path) -> None:
    """The columns of weight and source can be named, as all others can; numbers in CSV are text."""
    path = tmp_path / "rows.csv"
    path.write_text("prompt,completion,w,origin\nq,a,0.5,web\nq,a,,\nq,a,heavy,\n")
    intake = Intake(str(path), settings(columns={"weight": "w", "source": "origin"}))
    first, second, third = intake.stream()
    assert isinstance(first, Example) and (first.weight, first.source) == (0.5, "web")
    assert isinstance(second, Example) and (second.weight, second.source) == (1.0, str(path))
    assert isinstance(third, BadRow) and "found 'heavy'" in third.text


def test_a_source_that_is_no_text_is_named_as_not_used(tmp_path: Path) -> None:
    """A `source` that holds something else than text is another thing: it is listed among the unused columns."""
    intake, (example,) = take(tmp_path, LAYOUTS[2] | {"source": {"url": "x"}})
    assert isinstance(example, Example) and example.source == example.place.file
    assert intake.unused == ("source",)


def test_turns_keep_their_own_weights(tmp_path: Path) -> None:
    """Learned turns of one row may have different weights; a turn of weight 0 may be empty."""
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "weight": 0},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a", "weight": 0.5},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "b"},
    ]
    example = example_of(tmp_path, {"messages": turns, "weight": 3})
    assert [message.weight for message in example.messages] == [1, 0, 1, 0.5, 1, 1]
    assert example.weight == 3


def test_a_turn_of_nothing_but_calls_keeps_them(tmp_path: Path) -> None:
    """A call without any content is a whole turn, also as a text that holds JSON."""
    call = {"function": {"name": "f", "arguments": "{}"}}
    for calls in ([call], json.dumps([call])):
        row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": calls}]}
        assert example_of(tmp_path, row).messages[1].tool_calls == (call,)


def turns(*pairs: tuple[Any, Any], **more: Any) -> dict[str, Any]:
    """Return a row of messages; `more` goes into the last turn."""
    listed: list[dict[str, Any]] = [{"role": role, "content": content} for role, content in pairs]
    listed[-1].update(more)
    return {"messages": listed}


Q, A = ("user", "q"), ("assistant", "a")
TWICE = '{"messages": [{"role": "user", "content": "q", "content": "r"}, {"role": "assistant", "content": "a"}]}'
FAULTS: tuple[tuple[dict[str, Any] | str, str, str], ...] = (
    (turns(Q), "no assistant turn", "role-order"),
    (turns(Q, A, train=False), "nothing to learn", "role-order"),
    (turns(Q, A, weight=0), "nothing to learn", "role-order"),
    (turns(Q, ("asistant", "a")), "unknown role", "role-order"),
    (turns(Q, (7, "a")), "unknown role", "role-order"),
    ({"messages": []}, "messages is empty", "role-order"),
    ({"messages": [{"content": "q"}]}, "turn without role", "role-order"),
    (turns(Q, A, tool_calls="f()"), "tool calls", "broken-structure"),
    (turns(Q, A) | {"tools": "f()"}, "tools", "broken-structure"),
    (TWICE, "duplicate key", "broken-structure"),
    (turns(Q, ("assistant", None)), "content is null", "bad-row"),
    (turns(Q, A, weight=-1), "weight", "bad-row"),
    ("{", "line cut off", "bad-row"),
    ("[]", "not an object", "bad-row"),
)


@pytest.mark.parametrize(("row", "kind", "rule"), FAULTS, ids=[fault[1] + fault[2][:2] for fault in FAULTS])
def test_a_bad_row_names_the_rule_it_breaks(row: dict[str, Any] | str, kind: str, rule: str, tmp_path: Path) -> None:
    """Faults of turns are D03, faults of structure D07, all others plain bad rows."""
    bad = fault_of(tmp_path, row)
    assert (bad.kind, bad.rule) == (kind, rule)
    assert rule == "bad-row" or rule in RULES


@pytest.mark.parametrize(
    ("line", "key"),
    [
        (TWICE, "content"),
        ('{"prompt": "q", "prompt": "r", "completion": "a"}', "prompt"),
        ('{"conversations": [{"from": "human", "from": "gpt", "value": "a"}]}', "from"),
        ('{"messages": [{"role": "user", "role" : "assistant", "content": "a"}]}', "role"),
        ('{"messages": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "value": "b"}]}', "value"),
        ('{"messages": [], "messages" : [{"role": "assistant", "content": "a"}]}', "messages"),
        ('{"messages": [{"role": "assistant", "content": "a", "weight": 1, "weight": 2}]}', ""),
        ('{"messages": [{"role": "assistant", "content": "role", "name": "content"}]}', ""),
        ('{"prompt": "prompt", "completion": "\\"prompt\\": prompt"}', ""),
    ],
)
def test_keys_written_twice(line: str, key: str, tmp_path: Path) -> None:
    """A key that matters and stands twice in one object is found, however spaced; the same word as text is not."""
    _, (row,) = take(tmp_path, line)
    if key:
        assert isinstance(row, BadRow) and row.text == f'"{key}" appears twice'
    else:
        assert isinstance(row, Example)
