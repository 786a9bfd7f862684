"""A tool call must name a tool of its row, and its arguments must parse and obey that tool's schema."""

from __future__ import annotations

from typing import Any

import pytest

from attune.data.lint.structure import Structure
from attune.data.lint.thresholds import DEFAULT
from attune.data.lint.tools import ToolCalls
from attune.data.lint.view import view
from attune.types import Example, Message, Place

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}


def row(
    arguments: Any, name: str = "weather", tools: tuple[dict[str, Any], ...] = (TOOL,), *, train: bool | None = None
) -> Example:
    """A row that calls a tool."""
    call = {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}
    turns = (
        Message("user", "How is it in Rome?"),
        Message("assistant", "", train=train, tool_calls=(call,)),
        Message("tool", "sunny"),
        Message("assistant", "Sunny."),
    )
    return Example(Place("a.jsonl", 1, 0), turns, tools=tools)


@pytest.mark.parametrize("arguments", ['{"city": "Rome"}', {"city": "Rome", "days": 2}, '{"city":"R\\":o","days":1}'])
def test_right_calls_have_no_fault(arguments: Any) -> None:
    """Arguments may be text or an object; both obey the schema."""
    assert ToolCalls().fault(row(arguments)) == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ('{"city": "Rome"', "no JSON"),
        ('{"city": "Rome", "city": "Oslo"}', 'the key "city" twice'),
        ('["Rome"]', "no object"),
        ('{"days": 2}', '"city" is a required property'),
        ('{"city": "Rome", "days": "2"}', "days: "),
        ('{"city": "Rome", "hour": 2}', "hour"),
        (None, '"city" is a required property'),
    ],
)
def test_wrong_arguments_are_named(arguments: Any, said: str) -> None:
    """The fault says what is wrong with which tool's arguments."""
    fault = ToolCalls().fault(row(arguments))
    assert said in fault
    assert "weather" in fault


def test_an_unknown_tool_is_named_where_the_row_has_tools() -> None:
    """A row that defines no tools cannot be judged by them."""
    assert 'calls the tool "wether"' in ToolCalls().fault(row('{"city": "Rome"}', "wether"))
    assert ToolCalls().fault(row('{"city": "Rome"}', "wether", tools=())) == ""


def test_calls_that_are_not_learned_are_not_judged() -> None:
    """A call with train = false teaches nothing."""
    assert ToolCalls().fault(row("{", train=False)) == ""


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "dict", "properties": {"city": {"type": "str"}, "days": {"type": "int"}}, "required": ["city"]},
        {"city": {"type": "string"}, "days": {"type": "integer"}},
    ],
)
def test_common_ways_to_write_types_are_understood(parameters: dict[str, Any]) -> None:
    """Tools written with Python's type names, or as a bare list of parameters, are schemas too."""
    tool = {"name": "weather", "parameters": parameters}
    assert ToolCalls().fault(row('{"city": "Rome", "days": 2}', tools=(tool,))) == ""
    assert "days" in ToolCalls().fault(row('{"city": "Rome", "days": "two"}', tools=(tool,)))


def test_calls_written_as_text_are_judged() -> None:
    """ShareGPT's function_call turns hold the call as JSON text."""
    turns = (Message("user", "Rome?"), Message("assistant", '{"name": "weather", "arguments": {"town": "Rome"}}'))
    assert "town" in ToolCalls().fault(Example(Place("a.jsonl", 1, 0), turns, tools=(TOOL,)))


def test_a_tool_that_cannot_be_used_is_told_and_blames_no_call() -> None:
    """Parameters that are no JSON Schema are an info; the calls are left alone."""
    tool = {"name": "weather", "parameters": {"type": "object", "properties": {"city": "text"}}}
    structure = Structure(DEFAULT, None)
    structure.take(view(0, row('{"city": 3}', tools=(tool,))))
    (found,) = structure.found()
    assert (found.name, found.severity, list(found.rows)) == ("broken-structure", "info", [0])
    assert structure.formats() == {"label": 1}
