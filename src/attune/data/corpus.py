"""All rows of a set as flat arrays: small enough for a million rows, and quick to take a step's rows from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np
from numpy.typing import NDArray

from attune.types import Encoded, LedgerEntry, Place, RowState

STATES: tuple[RowState, ...] = ("used", "cut", "dropped", "duplicate", "held_out")


class Places(Sequence[Place]):
    """The places of many rows, 20 bytes each; a Place is made when it is asked for."""

    def __init__(
        self, files: Sequence[str], numbers: NDArray[np.int32], lines: NDArray[np.int64], offsets: NDArray[np.int64]
    ) -> None:
        self.files, self.numbers, self.lines, self.offsets = tuple(files), numbers, lines, offsets

    @classmethod
    def of(cls, places: Sequence[Place]) -> Places:
        """Return the same places, stored compactly."""
        files = {name: number for number, name in enumerate(dict.fromkeys(place.file for place in places))}
        count = len(places)
        return cls(
            tuple(files),
            np.fromiter((files[place.file] for place in places), np.int32, count),
            np.fromiter((place.line for place in places), np.int64, count),
            np.fromiter((place.offset for place in places), np.int64, count),
        )

    def take(self, rows: NDArray[np.int64]) -> Places:
        """Return the places of some rows."""
        return Places(self.files, self.numbers[rows], self.lines[rows], self.offsets[rows])

    def __len__(self) -> int:
        return len(self.lines)

    @overload
    def __getitem__(self, row: int) -> Place: ...
    @overload
    def __getitem__(self, row: slice) -> Places: ...
    def __getitem__(self, row: int | slice) -> Place | Places:
        if isinstance(row, slice):
            return Places(self.files, self.numbers[row], self.lines[row], self.offsets[row])
        return Place(self.files[self.numbers[row]], int(self.lines[row]), int(self.offsets[row]))


class Entries(Sequence[LedgerEntry]):
    """The ledger's line for every input row, in order; made when it is asked for."""

    def __init__(
        self, places: Places, states: NDArray[np.int8], reasons: NDArray[np.int16], words: Sequence[str]
    ) -> None:
        self.places, self.states, self.reasons, self.words = places, states, reasons, tuple(words)

    def __len__(self) -> int:
        return len(self.states)

    @overload
    def __getitem__(self, row: int) -> LedgerEntry: ...
    @overload
    def __getitem__(self, row: slice) -> Entries: ...
    def __getitem__(self, row: int | slice) -> LedgerEntry | Entries:
        if isinstance(row, slice):
            return Entries(self.places[row], self.states[row], self.reasons[row], self.words)
        return LedgerEntry(self.places[row], STATES[self.states[row]], self.words[self.reasons[row]])


@dataclass(frozen=True)
class Corpus:
    """Rows laid end to end: row i is tokens[offsets[i]:offsets[i + 1]]; learned[t] says that token t is learned.

    tokens: int32 [N]; learned: bool [N]; offsets: int64 [rows + 1]; weights: float32 [N], the loss weight of each
    token, None if all are 1; copies: float32 [rows], how often each row comes in an epoch, None: once.
    """

    tokens: NDArray[np.int32]
    learned: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    places: Places
    sources: tuple[str, ...]
    weights: NDArray[np.float32] | None = None
    copies: NDArray[np.float32] | None = None

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, int64 [rows]."""
        return np.diff(self.offsets)

    @cached_property
    def num_learned(self) -> int:
        """Learned tokens of all rows."""
        return int(self.learned.sum())

    def row(self, row: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Return the tokens of a row and which of them are learned, as views."""
        span = slice(int(self.offsets[row]), int(self.offsets[row + 1]))
        return self.tokens[span], self.learned[span]

    def keep(self, chosen: NDArray[np.bool_]) -> Corpus:
        """Return a corpus of the rows where `chosen` (bool [rows]) is true, copied."""
        lengths = self.lengths[chosen]
        held = np.repeat(chosen, self.lengths)
        rows = np.flatnonzero(chosen)
        return Corpus(
            self.tokens[held],
            self.learned[held],
            np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
            self.places.take(rows),
            tuple(self.sources[row] for row in rows),
            None if self.weights is None else self.weights[held],
            None if self.copies is None else self.copies[rows],
        )


def to_corpus(rows: Sequence[Encoded]) -> Corpus:
    """Return encoded rows as a corpus."""
    lengths = np.fromiter((len(row.tokens) for row in rows), np.int64, len(rows))
    return Corpus(
        np.concatenate([row.tokens for row in rows]) if rows else np.zeros(0, np.int32),
        np.concatenate([row.learned for row in rows]) if rows else np.zeros(0, bool),
        np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
        Places.of([row.place for row in rows]),
        tuple(row.source for row in rows),
        join_weights(rows),
    )


def join_weights(rows: Sequence[Encoded]) -> NDArray[np.float32] | None:
    """Return the loss weights of all tokens of some rows, float32 [tokens]; None if all are 1."""
    if all(row.weights is None for row in rows):
        return None
    return np.concatenate(
        [np.ones(len(row.tokens), np.float32) if row.weights is None else row.weights for row in rows]
    )
