"""The order of turns, and questions that ask nothing."""

from __future__ import annotations

from typing import Any

import pytest

from attune.data.lint.roles import find_empty_prompt, find_role_order
from attune.types import Message

LETTERS = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
CALL = ({"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}},)


def turns(order: str) -> list[Message]:
    """Turns by their first letters; every answer holds what could be a call."""
    return [Message(LETTERS[letter], "{1}") for letter in order]


@pytest.mark.parametrize("order", ["ua", "sua", "uaua", "suaua", "uata", "uatta", "uatata", "uataua"])
def test_orders_that_a_chat_has(order: str) -> None:
    """Turns as in: system? (user assistant (tool+ assistant)*)+ is accepted."""
    assert find_role_order(turns(order)) is None


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ("uua", "turn 2 is user after user"),
        ("uau", "the last turn is user"),
        ("aua", "turn 1 is assistant and the first"),
        ("uasua", "turn 3 is system after assistant"),
        ("ssua", "turn 2 is system after system"),
        ("uta", "turn 2 is tool after user"),
        ("uaa", "turn 3 is assistant after assistant"),
        ("uat", "the last turn is tool"),
        ("uatua", "turn 4 is user after tool"),
        ("sa", "turn 2 is assistant after system"),
    ],
)
def test_orders_that_no_chat_has(order: str, said: str) -> None:
    """Every other order is refused, with the turn at which it breaks."""
    assert find_role_order(turns(order)) == said


def conversation(result: dict[str, Any], calls: Any = CALL, said: str = "") -> list[Message]:
    """A question, a call, its result and an answer."""
    return [
        Message("user", "Will it rain?"),
        Message("assistant", said, tool_calls=calls),
        Message("tool", '{"rain": 1}', **result),
        Message("assistant", "Yes."),
    ]


def test_result_must_follow_a_call_of_that_name() -> None:
    """A result of the tool that was called is right; one of another tool, or without any call, is not."""
    assert find_role_order(conversation({})) is None
    assert find_role_order(conversation({"name": "weather"})) is None
    assert "was not called" in str(find_role_order(conversation({"name": "clock"})))
    assert "calls no tool" in str(find_role_order(conversation({}, (), "I shall look.")))


def test_call_written_into_the_content_counts() -> None:
    """ShareGPT rows hold the call as text."""
    assert find_role_order(conversation({}, (), '{"name": "weather", "arguments": {}}')) is None


def test_call_without_result_is_named() -> None:
    """A call that the user answers, and no tool, is out of order; a call at the end is what is to be learned."""
    asked, call = Message("user", "Will it rain?"), Message("assistant", "", tool_calls=CALL)
    assert find_role_order([asked, call]) is None
    said = find_role_order([asked, call, Message("user", "Well?"), Message("assistant", "Yes.")])
    assert said == "turn 2 calls a tool and turn 3 is no result but user"


@pytest.mark.parametrize(
    "asked", ["", " ", "\n\t", "\u200b", "\u00a0", "\ufeff", "...", "?", "nan", "None", "<noinput>", "N/A"]
)
def test_empty_questions(asked: str) -> None:
    """White space, invisible characters, lone stops and words that stand for nothing ask nothing."""
    assert find_empty_prompt([Message("user", asked), Message("assistant", "Yes.")])


@pytest.mark.parametrize("asked", ["Hi", "1+1", "\U0001f600", "\u4f60\u597d", "=", "none of them?", "Is NaN a number?"])
def test_short_questions_that_ask_something(asked: str) -> None:
    """A letter, a digit, a symbol or an emoji asks."""
    assert find_empty_prompt([Message("user", asked), Message("assistant", "Yes.")]) is None


def test_empty_question_in_a_later_turn_is_named() -> None:
    """The turn is told."""
    said = [Message("user", "Hi"), Message("assistant", "Hello"), Message("user", " "), Message("assistant", "Yes.")]
    assert find_empty_prompt(said) == "turn 3 (user) is empty"
