"""The validation rows that the model knows worst and best, token by token."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from attune.show.facts import Facts, Record, number, records_of
from attune.show.words import figure, place, visible

HEAT = (0.1, 0.5, 1.0, 2.0, 4.0)  # nats at which the next colour begins: a chance of 90, 61, 37, 14 and 2 %
HARDEST = 5


@dataclass(frozen=True, slots=True)
class Piece:
    """A token with its loss in words and its colour, 0 (known) to 5; None and no words: a text that is not learned."""

    text: str
    loss: str = ""
    heat: int | None = None


@dataclass(frozen=True, slots=True)
class HeatedRow:
    """A row with what it cost the model; `hardest` are its costliest tokens, as text and nats."""

    kind: str  # worst or best
    place: str
    loss: Any
    base_loss: Any
    tokens: Any
    pieces: tuple[Piece, ...]
    hardest: tuple[tuple[str, str], ...]


def heated_rows(facts: Facts) -> list[HeatedRow]:
    """Return the worst rows, the worst first, then the best, the best first."""
    return [_heated(kind, row) for kind in ("worst", "best") for row in records_of(facts.extremes.get(kind))]


def _heated(kind: str, row: Record) -> HeatedRow:
    pieces = [pair for pair in row.get("pieces") or () if isinstance(pair, list) and len(pair) == 2]
    known = [(loss, str(text)) for text, value in pieces if (loss := number(value)) is not None]
    hardest = sorted(known, key=lambda pair: -pair[0])[:HARDEST]
    return HeatedRow(
        kind,
        place(row),
        row.get("loss"),
        row.get("base_loss"),
        row.get("tokens"),
        tuple(_pieces(pieces)),
        tuple((_shown(text), figure(loss, 2)) for loss, text in hardest),
    )


def _pieces(pairs: list[list[Any]]) -> Iterator[Piece]:
    """Yield each learned token by itself, and what stands between them in one piece."""
    for is_learned, some in groupby(pairs, key=lambda pair: number(pair[1]) is not None):
        if is_learned:
            yield from (Piece(str(text), figure(loss, 2), bisect(HEAT, loss)) for text, loss in some)
        else:
            yield Piece("".join(str(text) for text, _ in some))


def _shown(text: str) -> str:
    """Return a token so that its spaces and line ends can be seen."""
    return visible(text).replace("\n", "\u21b5").replace("\t", "\u2192").replace(" ", "\u2423") or "nothing"
