"""A row as the rules look at it: what is asked, what is learned, and all that is said."""

from __future__ import annotations

from typing import NamedTuple

from attune.types import Example


class RowView(NamedTuple):
    """An example with its parts at hand. `number` counts the rows of a survey, over all files and sets.

    Plain text has no question: its text is the one answer.
    """

    number: int
    example: Example
    question: str  # the last user turn before the last learned answer; empty where there is none
    context: str  # every turn before the last learned answer but that question: system, earlier turns, tool results
    answers: tuple[str, ...]  # all learned answers
    answer: str  # the last of them; empty where an answer is a tool call only
    tool_calls: bool  # some answer calls a tool


def view(number: int, example: Example) -> RowView:
    """Return an example as the rules look at it."""
    if example.text is not None:
        return RowView(number, example, "", "", (example.text,), example.text, False)
    messages = example.messages
    if len(messages) == 2 and messages[0].role == "user":  # most rows
        content = messages[1].content
        return RowView(number, example, messages[0].content, "", (content,), content, bool(messages[1].tool_calls))
    learned = [at for at, message in enumerate(messages) if message.role == "assistant" and message.train is not False]
    last = learned[-1] if learned else len(messages)
    asked = next((at for at in range(last - 1, -1, -1) if messages[at].role == "user"), -1)
    return RowView(
        number,
        example,
        messages[asked].content if asked >= 0 else "",
        "\n".join(messages[at].content for at in range(last) if at != asked),
        tuple(messages[at].content for at in learned),
        messages[last].content if learned else "",
        any(messages[at].tool_calls for at in learned),
    )
