"""The tool calls of a conversation: a known tool, arguments that parse, and that obey the tool's own schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from attune.data.lint.conformance import Conformance
from attune.data.lint.formats import twice_fault
from attune.errors import ConfigError
from attune.types import Example

MOST_SCHEMAS = 10_000
# how people write types that JSON Schema calls otherwise; such definitions are common and clear
_TYPES = {"dict": "object", "float": "number", "double": "number", "int": "integer", "long": "integer", "str": "string"}
_TYPES |= {"list": "array", "tuple": "array", "bool": "boolean", "none": "null", "any": ""}


class ToolCalls:
    """Judges the calls of rows; the schemas of tools are opened once and kept."""

    def __init__(self) -> None:
        self._opened: dict[bytes, Conformance | None] = {}

    def fault(self, example: Example) -> str:
        """Return what is wrong with the first wrong call that a row teaches, in words; empty where all are right."""
        tools: dict[str, Mapping[str, Any]] = {
            name: parameters for name, parameters in map(tool_of, example.tools) if name
        }
        for message in example.messages:
            if message.role != "assistant" or message.train is False:
                continue
            calls: Sequence[Mapping[str, Any]] = message.tool_calls
            if not calls and tools and _is_written_call(message.content):
                calls = (orjson.loads(message.content),)
            for call in calls:
                text = self._call_fault(call, tools)
                if text:
                    return text
        return ""

    def unusable(self, example: Example) -> str:
        """Return the first tool of a row whose parameters are no JSON Schema; empty where all can be used."""
        for name, parameters in map(tool_of, example.tools):
            if parameters and self._open(parameters) is None:
                return name
        return ""

    def _call_fault(self, call: Mapping[str, Any], tools: Mapping[str, Mapping[str, Any]]) -> str:
        inner = call.get("function")
        call = inner if isinstance(inner, Mapping) else call
        name = call.get("name")
        if not isinstance(name, str) or not name:
            return "a tool call without a name"
        if tools and name not in tools:
            return f'calls the tool "{name[:40]}", which the row does not define'
        arguments: Any = call.get("arguments", call.get("parameters"))
        if isinstance(arguments, str):
            text = arguments
            try:
                arguments = orjson.loads(text) if text.strip() else {}
            except orjson.JSONDecodeError as error:
                return f"arguments of {name[:40]} are no JSON (character {error.pos + 1}): {text[:40]}"
            twice = twice_fault(text, arguments)
            if twice:
                return f"arguments of {name[:40]} hold {twice}"
        if arguments is not None and not isinstance(arguments, dict):
            return f"arguments of {name[:40]} are no object"
        schema = self._open(tools[name]) if tools and tools[name] else None
        broken = schema.fault(arguments or {}) if schema else ""
        return f"arguments of {name[:40]}: {broken}" if broken else ""

    def _open(self, parameters: Mapping[str, Any]) -> Conformance | None:
        """Return a tool's schema, opened; None where it is none."""
        try:
            key = orjson.dumps(parameters, option=orjson.OPT_NON_STR_KEYS)
        except orjson.JSONEncodeError:  # a number of more than 64 bits: no sensible schema
            return None
        if key not in self._opened:
            if len(self._opened) >= MOST_SCHEMAS:
                self._opened.clear()
            self._opened[key] = _opened(parameters)
        return self._opened[key]


def tool_of(tool: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return a tool's name and the schema of its parameters, in the spellings of OpenAI, Anthropic and plain lists."""
    inner = tool.get("function")
    tool = inner if isinstance(inner, Mapping) else tool
    name = tool.get("name")
    parameters: Any = next((tool[key] for key in ("parameters", "input_schema", "inputSchema") if tool.get(key)), {})
    return (name if isinstance(name, str) else ""), (parameters if isinstance(parameters, Mapping) else {})


def _opened(parameters: Mapping[str, Any]) -> Conformance | None:
    plain = _with_known_types(parameters)
    if "type" not in plain and "properties" not in plain and not any(key.startswith("$") for key in plain):
        # a bare list of parameters: {"city": {"type": "string"}}
        if not all(isinstance(part, Mapping) for part in plain.values()):
            return None
        plain = {"type": "object", "properties": plain}
    try:
        return Conformance(plain)
    except ConfigError:
        return None


def _with_known_types(schema: Any) -> Any:
    """Return a schema in which types have the names that JSON Schema knows."""
    if isinstance(schema, Mapping):
        return {
            key: part
            for key, part in ((key, _known(key, part)) for key, part in schema.items())
            if not (key == "type" and part == "") and not (key == "required" and isinstance(part, bool))
        }
    if isinstance(schema, list):
        return [_with_known_types(part) for part in schema]
    return schema


def _known(key: str, part: Any) -> Any:
    if key == "type" and isinstance(part, str):
        return _TYPES.get(part.lower(), part.lower())
    return part if key in {"enum", "const", "default", "examples"} else _with_known_types(part)


def _is_written_call(content: str) -> bool:
    """Return whether an answer's words are a call, as ShareGPT's function_call turns hold it."""
    if not (content[:1] == "{" and '"name"' in content and '"arguments"' in content):
        return False
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        return False
    return isinstance(value, dict) and set(value) == {"name", "arguments"}
