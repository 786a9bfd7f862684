"""The proof of the mask: learned tokens, decoded, are the answer and its terminator, token by token, in every row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from attune.data.encoding.template import ChatTemplate
from attune.data.encoding.turns import Rendered
from attune.types import Example


class Span(NamedTuple):
    """A learned stretch of a rendered text, and what its tokens must say."""

    start: int
    end: int
    border: str  # the template's own text before it
    expected: str
    weight: float = 1.0  # of the loss of its tokens


class Draft(NamedTuple):
    """A row being encoded: its ids and the token range of each learned span."""

    example: Example
    rendered: Rendered
    spans: tuple[Span, ...]
    ids: NDArray[np.int32]
    ranges: tuple[tuple[int, int], ...]


def says_answer(draft: Draft, template: ChatTemplate, *, strict: bool = True) -> bool:
    """Return whether learned tokens say what they must: exactly, or (not strict) as the tokenizer's own round trip.

    A tokenizer that puts a space before each part (SentencePiece) shows that space after a control token; there
    the tokens are right if they say the answer on their own.
    """
    tokenizer = template.tokenizer
    for span, (first, last) in zip(draft.spans, draft.ranges, strict=True):
        run = draft.ids[first:last].tolist()
        after = tokenizer.decode_after(run)
        if after == span.expected:
            continue
        alone = tokenizer.decode(run)
        is_after_control = first == 0 or int(draft.ids[first - 1]) in tokenizer.control_ids
        if is_after_control and alone == span.expected:
            continue
        if span.start == 0 and alone.replace(" ", "") == span.expected.replace(" ", ""):
            continue
        if strict or after not in _round_trips(span.expected, template):
            return False
    return True


def _round_trips(expected: str, template: ChatTemplate) -> tuple[str, str]:
    """Return what the tokenizer itself makes of a text: as a continuation, and on its own."""
    tokenizer = template.tokenizer
    body = expected.removesuffix(template.terminator)
    end = tokenizer.encode(template.terminator) if len(body) < len(expected) else []
    continued = tokenizer.decode_after([*tokenizer.encode_continuation(body), *end])
    return continued, tokenizer.decode(tokenizer.encode(expected))


def difference_text(draft: Draft, template: ChatTemplate) -> str:
    """Return where the learned tokens and the answer part, in at most four lines."""
    for span, (first, last) in zip(draft.spans, draft.ranges, strict=True):
        said, expected = template.tokenizer.decode_after(draft.ids[first:last].tolist()), span.expected
        if said != expected:
            at = _first_difference(said, expected)
            window = slice(max(0, at - 20), at + 20)
            return (
                f"{draft.example.place} the learned tokens do not say the answer: they differ at character {at + 1},\n"
                f"answer {expected[window]!r}, tokens {said[window]!r}.\n"
                f"Chat template {template.name} and this tokenizer do not fit; nothing was trained.\n"
                "Try another data.template."
            )
    raise AssertionError("asked for a difference where there is none")


def _first_difference(one: Sequence[str] | str, other: Sequence[str] | str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
