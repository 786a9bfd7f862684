"""A conversation as one text with the place of every turn in it, and the pieces that such texts are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from attune.types import Message


class Turn(NamedTuple):
    """An answer in a rendered text: what the model must write after the generation prompt, terminator included."""

    message: int  # its index in the conversation
    start: int
    end: int
    border: str  # the template's own text just before it; empty where that is not known
    expected: str  # what the learned tokens must say
    is_rewritten: bool = False  # the text before it is not what the model sees when it answers here
    is_changed: bool = False  # the template did not keep the answer's own words


class Rendered(NamedTuple):
    """A conversation as text: `contents` are the spans of the messages' own words (the rest is the template's)."""

    text: str
    contents: tuple[tuple[int, int], ...] | None
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """How conversations with the same roles read: the template's text around the contents, and their order in it.

    `order` holds message indices: a template may move one. `turns` holds, for each answer: message index,
    characters learned before its content, after it, rewritten or not.
    """

    pieces: tuple[str, ...]
    order: tuple[int, ...]
    turns: tuple[tuple[int, int, int, bool], ...] = ()


def mark(number: int) -> str:
    """Return a text that stands for a content, that no template contains and that no template changes."""
    return f"Qx{number}Zq{number}Jw"


def cut_at_marks(text: str, count: int) -> tuple[Shape, list[tuple[int, int]]] | None:
    """Return the pieces of a text around its marks and the span of each mark; None if one is not there exactly once."""
    bounds: list[tuple[int, int]] = []
    for number in range(count):
        start = text.find(mark(number))
        if start < 0 or text.count(mark(number)) != 1:
            return None
        bounds.append((start, start + len(mark(number))))
    edges = [0, *(edge for span in sorted(bounds) for edge in span), len(text)]
    pieces = tuple(text[start:end] for start, end in list(pairwise(edges))[::2])
    return Shape(pieces, tuple(sorted(range(count), key=bounds.__getitem__))), bounds


def fill(shape: Shape, messages: Sequence[Message], terminator: str) -> Rendered:
    """Return the text of a conversation put together from the pieces of its shape."""
    parts: list[str] = []
    contents = [(0, 0)] * len(messages)
    before_it = [""] * len(messages)
    position = 0
    for piece, number in zip(shape.pieces, shape.order, strict=False):
        content = messages[number].content
        start = position + len(piece)
        position = start + len(content)
        parts.append(piece)
        parts.append(content)
        contents[number] = (start, position)
        before_it[number] = piece
    parts.append(shape.pieces[-1])
    turns = []
    for number, before, after, is_rewritten in shape.turns:
        start, end = contents[number]
        piece = before_it[number]
        border, lead = (piece[:-before], piece[-before:]) if before else (piece, "")
        expected = f"{lead}{messages[number].content}{terminator if after else ''}"
        turns.append(Turn(number, start - before, end + after, border, expected, is_rewritten))
    return Rendered("".join(parts), tuple(contents), tuple(turns))


def keeps(said: str, content: str) -> bool:
    """Return whether a rendered answer holds all of the content, white space aside."""
    return "".join(content.split()) in "".join(said.split())


def markup_of(rendered: Rendered) -> list[tuple[int, int]]:
    """Return the spans of a rendered text that the template wrote itself."""
    edges = [0, *(edge for span in sorted(rendered.contents or ()) for edge in span), len(rendered.text)]
    return [(start, end) for start, end in list(pairwise(edges))[::2] if end > start]
