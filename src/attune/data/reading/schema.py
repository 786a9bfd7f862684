"""From a row as it was written to an Example: which layout it has, and what each of its fields must hold."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import orjson

from attune.data.reading.keys import key_written_twice
from attune.data.reading.line import BadRow, RawRow, json_kind
from attune.errors import ConfigError
from attune.types import Example, Message

Layout = Literal["messages", "sharegpt", "prompt/completion", "alpaca", "question/answer", "text"]

# in the order in which they are tried; a row has a layout when it has one key of every group
LAYOUTS: dict[Layout, tuple[tuple[str, ...], ...]] = {
    "messages": (("messages",),),
    "sharegpt": (("conversations",),),
    "prompt/completion": (("prompt",), ("completion",)),
    "alpaca": (("instruction",), ("output", "response")),
    "question/answer": (("question",), ("answer",)),
    "text": (("text",),),
}
WORDS: dict[Layout, str] = {
    "messages": "messages",
    "sharegpt": "ShareGPT conversations (from/value): human is read as user, gpt as assistant",
    "prompt/completion": "prompt/completion",
    "alpaca": "Alpaca instruction/input/output",
    "question/answer": "question/answer",
    "text": "plain text",
}
EXTRAS = ("input", "system", "tools", "history")
ROW_KEYS = ("weight", "source")  # of a row as a whole, in every layout
NAMES = (*dict.fromkeys(name for groups in LAYOUTS.values() for group in groups for name in group), *EXTRAS, *ROW_KEYS)
_KEYS = {layout: tuple(name for group in groups for name in group) for layout, groups in LAYOUTS.items()}
ROLES = ("system", "user", "assistant", "tool")
ROLE_ALIASES = {
    "human": "user",
    "gpt": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "function_call": "assistant",
    "developer": "system",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
}


class _FaultError(Exception):
    """Why a row is no Example; turned into a BadRow, which knows the place. `rule`: the lint rule that it breaks."""

    def __init__(self, kind: str, text: str, rule: str = "bad-row") -> None:
        super().__init__(text)
        self.kind, self.text, self.rule = kind, text, rule


def check_columns(columns: Mapping[str, str]) -> None:
    """Raise ConfigError when data.columns maps a name that no layout has."""
    for name in columns:
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1)
            hint = f' - did you mean "{near[0]}"?' if near else f". Known names: {', '.join(NAMES)}."
            raise ConfigError(f'data.columns has the unknown name "{name}"{hint}')


def rename_columns(value: Mapping[str, Any], columns: Mapping[str, str]) -> Mapping[str, Any]:
    """Return a row under the usual names: `columns` maps a usual name to the row's own one, or to "" for none."""
    if not columns:
        return value
    taken = set(columns.values())
    rest = {key: cell for key, cell in value.items() if key not in taken and key not in columns}
    return {**rest, **{name: value[own] for name, own in columns.items() if own in value}}


def detect_layout(keys: Iterable[str]) -> Layout | None:
    """Return the first layout whose keys are all there; None if there is none."""
    have = set(keys)
    for layout, groups in LAYOUTS.items():
        if all(any(name in have for name in group) for group in groups):
            return layout
    return None


def used_keys(layout: Layout) -> frozenset[str]:
    """Return the keys of a row that a layout reads."""
    own = {name for group in LAYOUTS[layout] for name in group}.union(ROW_KEYS)
    return frozenset(own if layout == "text" else own.union(EXTRAS))


def to_example(
    raw: RawRow, value: Mapping[str, Any], layout: Layout, mask: str, *, source: str = ""
) -> Example | BadRow:
    """Return a row understood, or what is wrong with it.

    `value` is the row under the usual names. Assistant turns inside a `prompt` list are context under mask
    `completion`: there the completion alone is the answer. `source` is what rows without a `source` of their own are
    called; empty: the file. A row's `weight` scales its loss; 0 is kept here and means that it is not to be learned.
    """
    place = raw.place
    try:
        twice = key_written_twice(raw.raw, value, _KEYS[layout])
        if twice:
            raise _FaultError("duplicate key", f'"{twice}" appears twice', "broken-structure")
        if "not-json-number" in raw.notes:
            _refuse_lost_weight(raw.raw, value)
        weight = 1.0
        if "weight" in value:
            weight = _weight(value["weight"], "", is_text=not raw.raw)
        own = value.get("source")
        name = sys.intern(own) if type(own) is str and own else source or place.file  # one text for all rows of it
        if layout == "text":
            return Example(place, (), _text(value["text"], "text"), (), name, weight)
        messages = _read_prompt(value, mask) if layout == "prompt/completion" else _READERS[layout](value)
        _check_turns(messages)
        tools = value.get("tools")
        return Example(place, messages, None, _tools(tools) if tools else (), name, weight)
    except _FaultError as fault:
        return BadRow(place, fault.kind, fault.text, rule=fault.rule)


def _weight(cell: Any, name: str, *, is_text: bool = False) -> float:
    """Return a weight: a finite number from 0, 1 where there is none. `is_text`: numbers come as text, as in CSV."""
    if cell is None or (is_text and cell == ""):
        return 1.0
    number = cell
    if is_text and isinstance(cell, str):
        try:
            number = float(cell)
        except ValueError:
            number = cell
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number <= sys.float_info.max:
        hint = "" if name else '; if it means something else: data.columns.weight = ""'
        raise _FaultError("weight", f"{name}weight must be a number from 0, found {_shown(cell)}{hint}")
    return float(number)


def _refuse_lost_weight(raw: bytes, value: Mapping[str, Any]) -> None:
    """Raise a fault for a weight such as NaN or 1e999, which the reader gives as null; else it would count as 1."""
    if ("weight" in value and value["weight"] is None) or _NO_NUMBER.search(raw):
        raise _FaultError("weight", "has a weight that is no number from 0, such as NaN or 1e999")


_NO_NUMBER = re.compile(rb'"weight"\s*:\s*(?:-?(?:NaN|Infinity)|-?[\d.]+[eE]\+?\d{3})')


def _shown(cell: Any) -> str:
    """Return a value as a message names it."""
    return repr(cell)[:40] if isinstance(cell, (str, int, float)) else json_kind(cell)


def read_turns(cell: Any) -> tuple[Message, ...] | None:
    """Return the turns of a list of messages, or of a text that holds one as JSON; None if it is neither."""
    try:
        return _turns(cell, "messages")
    except _FaultError:
        return None


def has_empty_answer(example: Example) -> bool:
    """Return whether an answer that would be learned holds no visible character."""
    if example.text is not None:
        return not example.text.strip()
    for message in example.messages:
        is_answer = message.role == "assistant" and message.train is not False and message.weight > 0
        if is_answer and not message.content.strip() and not message.tool_calls:
            return True
    return False


def _check_turns(messages: Sequence[Message]) -> None:
    """Raise a fault for a conversation in which nothing can be learned."""
    answers = [message for message in messages if message.role == "assistant"]
    if not answers:
        raise _FaultError("no assistant turn", "has no assistant turn: nothing to learn", "role-order")
    if answers[0].train is None and answers[0].weight:
        return
    if all(m.train is False or not m.weight for m in answers) and not any(m.train and m.weight for m in messages):
        text = "has train = false (or weight 0) on every assistant turn: nothing to learn"
        raise _FaultError("nothing to learn", text, "role-order")


def _read_messages(value: Mapping[str, Any]) -> tuple[Message, ...]:
    return _turns(value["messages"], "messages")


def _read_sharegpt(value: Mapping[str, Any]) -> tuple[Message, ...]:
    return (*_system(value), *_turns(value["conversations"], "conversations"))


def _read_prompt(value: Mapping[str, Any], mask: str) -> tuple[Message, ...]:
    prompt, completion = value["prompt"], value["completion"]
    if isinstance(prompt, list):
        turns = _turns(prompt, "prompt")
        if mask == "completion":
            turns = tuple(_as_context(turn) for turn in turns)
    else:
        turns = (Message("user", _text(prompt, "prompt")),)
    if isinstance(completion, list):
        return (*_system(value), *turns, *_turns(completion, "completion"))
    return (*_system(value), *turns, Message("assistant", _text(completion, "completion")))


def _as_context(turn: Message) -> Message:
    if turn.role != "assistant" or turn.train is not None:
        return turn
    return replace(turn, train=False)


def _read_alpaca(value: Mapping[str, Any]) -> tuple[Message, ...]:
    question = _text(value["instruction"], "instruction")
    extra = value.get("input")
    if extra is not None and _text(extra, "input").strip():
        question = f"{question}\n\n{extra}" if question.strip() else str(extra)
    name = "output" if "output" in value else "response"
    history: list[Message] = []
    for pair in value.get("history") or ():
        if not isinstance(pair, list) or len(pair) != 2:
            raise _FaultError("history", "history must be a list of [question, answer] pairs")
        history += [Message("user", _text(pair[0], "history")), Message("assistant", _text(pair[1], "history"))]
    return (*_system(value), *history, Message("user", question), Message("assistant", _text(value[name], name)))


def _read_question(value: Mapping[str, Any]) -> tuple[Message, ...]:
    turns = (
        Message("user", _text(value["question"], "question")),
        Message("assistant", _text(value["answer"], "answer")),
    )
    return (*_system(value), *turns)


_READERS = {
    "messages": _read_messages,
    "sharegpt": _read_sharegpt,
    "alpaca": _read_alpaca,
    "question/answer": _read_question,
}


def _system(value: Mapping[str, Any]) -> tuple[Message, ...]:
    system = value.get("system")
    return (Message("system", system),) if isinstance(system, str) and system else ()


def _text(cell: Any, name: str) -> str:
    """Return a cell that must hold text."""
    if type(cell) is str:
        return cell
    if cell is None:
        raise _FaultError(f"{name} is null", f"{name} is null. Drop the row, or give text")
    if isinstance(cell, (int, float)) and not isinstance(cell, bool):
        raise _FaultError(f"{name} is a number", f'{name} is a number ({cell}); write "{cell}" if meant')
    raise _FaultError(f"{name} is not text", f"{name} must be text, found {json_kind(cell)}")


def _turns(turns: Any, name: str) -> tuple[Message, ...]:
    """Return the messages of a list of {role, content} (or {from, value})."""
    turns = _parsed_list(turns)
    if type(turns) is not list:
        raise _FaultError(
            f"{name} is not a list", f"{name} must be a list of {{role, content}}, found {json_kind(turns)}"
        )
    if not turns:
        raise _FaultError(f"{name} is empty", f"{name} is empty", "role-order")
    messages = []
    for number, turn in enumerate(turns, start=1):
        if type(turn) is dict and len(turn) == 2:  # most turns
            role, content = turn.get("role"), turn.get("content")
            if type(content) is str and role in ROLES:
                messages.append(Message(role, content))
                continue
        messages.append(_turn(turn, number))
    return tuple(messages)


def _parsed_list(cell: Any) -> Any:
    """Return the list that a text holds as JSON, as CSV and Parquet often carry it; anything else as it is."""
    if type(cell) is str and cell.lstrip().startswith("["):
        try:
            return orjson.loads(cell)
        except orjson.JSONDecodeError:
            return cell
    return cell


def _turn(turn: Any, number: int) -> Message:
    if type(turn) is not dict:
        raise _FaultError(
            "turn is not an object", f"turn {number} must be an object {{role, content}}, found {json_kind(turn)}"
        )
    role_key = "role" if "role" in turn else "from"
    content_key = "content" if "content" in turn or role_key == "role" else "value"
    if role_key not in turn:
        keys = ", ".join(map(str, turn)) or "none"
        raise _FaultError("turn without role", f"turn {number} has no role; its keys are: {keys}", "role-order")
    role = _role(turn[role_key], number)
    calls = _parsed_list(turn.get("tool_calls")) or ()
    if calls and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        raise _FaultError("tool calls", f"turn {number} tool_calls must be a list of objects", "broken-structure")
    content = turn.get(content_key)
    if content is None and calls:
        content = ""
    if content is None and content_key not in turn:
        raise _FaultError("turn without content", f"turn {number} has no {content_key}")
    if type(content) is list:
        content = _joined_parts(content, number)
    if type(content) is not str:
        try:
            content = _text(content, f"turn {number} {content_key}")
        except _FaultError as fault:
            raise _FaultError(fault.kind.replace(f"turn {number} ", ""), fault.text) from None
    if len(turn) == 2 and not calls:
        return Message(role, content)
    return _with_extras(turn, number, Message(role, content, tool_calls=tuple(calls)))


def _with_extras(turn: Mapping[str, Any], number: int, message: Message) -> Message:
    """Return a message with its train flag, weight, reasoning, name and the call that it answers."""
    train = turn.get("train")
    if train is not None and not isinstance(train, bool):
        raise _FaultError("train flag", f"turn {number} train must be true or false, found {json_kind(train)}")
    weight = _weight(turn.get("weight"), f"turn {number} ")
    reasoning = next((turn[key] for key in ("reasoning_content", "reasoning", "thinking") if turn.get(key)), None)
    if reasoning is not None and not isinstance(reasoning, str):
        raise _FaultError("reasoning", f"turn {number} reasoning must be text, found {json_kind(reasoning)}")
    name, answered = turn.get("name"), turn.get("tool_call_id")
    return Message(
        message.role,
        message.content,
        train,
        weight,
        reasoning,
        message.tool_calls,
        name if isinstance(name, str) else None,
        answered if isinstance(answered, str) else None,
    )


def _role(role: Any, number: int) -> str:
    if type(role) is str:
        if role in ROLES:
            return role
        if role in ROLE_ALIASES:
            return ROLE_ALIASES[role]
        near = difflib.get_close_matches(role.lower(), (*ROLES, *ROLE_ALIASES), n=1)
        hint = f' - did you mean "{near[0]}"?' if near else f". Roles are: {', '.join(ROLES)}"
        raise _FaultError("unknown role", f'turn {number}: unknown role "{role[:40]}"{hint}', "role-order")
    raise _FaultError("unknown role", f"turn {number}: role must be text, found {json_kind(role)}", "role-order")


def _joined_parts(parts: list[Any], number: int) -> str:
    """Return the text of content given as a list of parts."""
    texts = []
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else json_kind(part)
            raise _FaultError(
                "content part", f'turn {number} has a content part of type "{kind}"; only text is learned from here'
            )
        texts.append(part["text"])
    return "".join(texts)


def _tools(tools: Any) -> tuple[Mapping[str, Any], ...]:
    """Return tool definitions, given as a list or as a text that holds one."""
    if isinstance(tools, str) and tools.strip():
        try:
            tools = orjson.loads(tools)
        except orjson.JSONDecodeError:
            raise _FaultError("tools", "tools is text that is not JSON", "broken-structure") from None
    if not tools:
        return ()
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise _FaultError("tools", f"tools must be a list of objects, found {json_kind(tools)}", "broken-structure")
    return tuple(tools)
