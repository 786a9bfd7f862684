"""D03 and empty prompts: turns in an order that no chat has, and questions that ask nothing."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from attune.types import Message

# who may speak after whom; "" is the beginning
_FOLLOWS = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}
_NOTHING = frozenset(("nan", "null", "none", "n/a", "undefined", "noinput", "no input", "no_input"))
_CALL_SIGNS = "{<(["  # a call written into the content, as ShareGPT data has it, holds one of them


def find_role_order(messages: Sequence[Message]) -> str | None:
    """Return where the turns leave the order of a chat: system? (user assistant (tool+ assistant)*)+; None if not."""
    if len(messages) == 2 and messages[0].role == "user" and messages[1].role == "assistant":
        return None  # most rows
    before = ""
    for number, message in enumerate(messages, start=1):
        if message.role not in _FOLLOWS[before]:
            return f"turn {number} is {message.role} {f'after {before}' if before else 'and the first'}"
        if message.role == "user" and before == "assistant" and messages[number - 2].tool_calls:
            return f"turn {number - 1} calls a tool and turn {number} is no result but user"
        before = message.role
    if before not in ("assistant", ""):
        return f"the last turn is {before}"
    return _find_odd_result(messages)


def find_empty_prompt(messages: Sequence[Message]) -> str | None:
    """Return which question holds nothing, or only a word that stands for nothing; None if all ask something."""
    for number, message in enumerate(messages, start=1):
        if message.role == "user" and len(message.content) < 40 and _asks_nothing(message.content):
            said = message.content.strip()
            return f"turn {number} (user) is {said[:20]!r}" if said else f"turn {number} (user) is empty"
    return None


def _asks_nothing(content: str) -> bool:
    """Return whether a short text holds no letter, digit or symbol (an emoji can ask), or stands for nothing."""
    if not any(unicodedata.category(character)[0] in "LNS" for character in content):
        return True
    return len(content) < 16 and content.strip().strip("<>[]().\"'").lower() in _NOTHING


def _find_odd_result(messages: Sequence[Message]) -> str | None:
    """Return where a tool's result answers no call, by the id or the name of the call where they are given."""
    calls: tuple[Mapping[str, Any], ...] = ()
    for number, message in enumerate(messages, start=1):
        if message.role == "assistant":
            calls = message.tool_calls
        elif message.role == "tool":
            asked = messages[number - 2]
            if asked.role == "assistant" and not calls and not any(sign in asked.content for sign in _CALL_SIGNS):
                return f"turn {number} is a tool result, but turn {number - 1} calls no tool"
            ids = [call.get("id") for call in calls]
            answered = message.tool_call_id
            if answered and ids and all(ids) and answered not in ids:
                return f"turn {number} is the result of call {str(answered)[:30]}, which nobody made"
            names = [_called(call) for call in calls]
            if message.name and names and all(names) and message.name not in names:
                return f"turn {number} is a result of {message.name[:30]}, which was not called"
    return None


def _called(call: Mapping[str, Any]) -> str:
    """Return the name of the tool that is called; empty where the call names none."""
    function = call.get("function", call)
    name = function.get("name") if isinstance(function, Mapping) else None
    return name if isinstance(name, str) else ""
