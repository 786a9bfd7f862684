"""The rules that look at one row: cheap first looks at all its text, then one small function for each rule."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import orjson

from attune.data.lint.answers import find_cut
from attune.data.lint.characters import find_broken
from attune.data.lint.markup import find_markup, first_signs, markup_pattern, may_hold_markup
from attune.data.lint.personal import find_personal
from attune.data.lint.placeholders import find_placeholder
from attune.data.lint.quote import shorten
from attune.data.lint.roles import find_empty_prompt, find_role_order
from attune.data.lint.secrets import find_sample_key, find_secret, suspect
from attune.data.lint.thresholds import DEFAULT, Thresholds
from attune.data.lint.view import RowView
from attune.types import Example


@dataclass(frozen=True)
class RowOptions:
    """What the row rules need to know. `special_tokens` are those of the tokenizer in use, where there is one."""

    thresholds: Thresholds = DEFAULT
    special_tokens: tuple[str, ...] = ()

    @cached_property
    def markup(self) -> re.Pattern[str]:
        """What finds chat markup."""
        return markup_pattern(self.special_tokens)

    @cached_property
    def markup_signs(self) -> dict[str, tuple[str, ...]]:
        """What a row with chat markup holds, for a cheap first look."""
        return first_signs(self.special_tokens)


def lint_row(row: RowView, options: RowOptions) -> list[tuple[str, str]]:
    """Return what is wrong with a row: names of catalog.RULES, each at most once, and what was seen.

    What was seen has at most 120 characters; secrets and personal data are masked.
    """
    text = text_of(row.example)
    raw = text.encode()
    keys = suspect(text, raw)
    secret, (personal, like_it) = find_secret(text, raw, options.thresholds, keys), find_personal(text, raw)
    made_up = None if secret or personal else like_it or find_sample_key(text, keys)
    seen = (
        ("template-in-content", _markup(row, text, options)),
        ("role-order", find_role_order(row.example.messages)),
        ("empty-prompt", find_empty_prompt(row.example.messages)),
        ("truncated-answer", _cut(row, options.thresholds)),
        ("placeholder", _placeholder(row)),
        ("secret", secret),
        ("personal-data", personal),
        ("sample-data", made_up),
        ("broken-characters", find_broken(text, raw)),
    )
    return [(name, shorten(what)) for name, what in seen if what is not None]


def text_of(example: Example) -> str:
    """Return all that is said in a row: contents, reasoning and the arguments of tool calls."""
    if example.text is not None:
        return example.text
    parts = []
    for message in example.messages:
        parts.append(message.content)
        if message.reasoning:
            parts.append(message.reasoning)
        if message.tool_calls:
            parts.append(orjson.dumps(message.tool_calls, default=str).decode())
    return "\n".join(parts)


def _markup(row: RowView, text: str, options: RowOptions) -> str | None:
    """Return the first chat markup of a row's messages."""
    if not may_hold_markup(text, options.markup_signs):
        return None
    seen = (find_markup(content, options.markup, row.question) for content in _contents(row.example))
    return next((what for what in seen if what), None)


def _contents(example: Example) -> list[str]:
    return [example.text] if example.text is not None else [message.content for message in example.messages]


def _cut(row: RowView, thresholds: Thresholds) -> str | None:
    """Return the first cut answer; plain text may end where its passage does."""
    if row.example.text is not None:
        return None
    return next((cut for cut in (find_cut(answer, thresholds) for answer in row.answers) if cut), None)


def _placeholder(row: RowView) -> str | None:
    """Return the first unfilled slots; what the question or the turns before it hold is wanted."""
    asked = f"{row.context}\n{row.question}" if row.context else row.question
    return next((slot for slot in (find_placeholder(answer, asked) for answer in row.answers) if slot), None)
