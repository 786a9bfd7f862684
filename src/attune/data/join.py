"""The training rows of all files as one set: what each piece is of, which repeat each other, which are held out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from attune.data.collect import Collection
from attune.data.corpus import STATES, Corpus, Entries, Places
from attune.data.duplicates.near import Duplicates
from attune.types import Example, RowState


class Joined:
    """Pieces of rows (mostly whole rows) of several files in order; `file_of` and `row_of` say where each is from."""

    def __init__(self, collections: Sequence[Collection], weights: Sequence[float]) -> None:
        self.collections = collections
        counts = [collection.num_pieces for collection in collections]
        self.file_of = np.repeat(np.arange(len(collections)), counts)
        rows = [np.array(collection.rows_of, dtype=np.int64) for collection in collections]
        self.row_of = np.concatenate(rows)
        self.draws = np.concatenate([np.array(collection.draws, dtype=np.float64) for collection in collections])
        numbers = [np.array(collection.fates.numbers, dtype=np.int64) for collection in collections]
        self.numbers = np.concatenate([of_file[own] for of_file, own in zip(numbers, rows, strict=True)])
        copies = None if all(weight == 1 for weight in weights) else np.repeat(weights, counts).astype(np.float32)
        self.corpus = join_corpora([collection.corpus() for collection in collections], copies)

    def draws_of(self, groups: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return each piece's draw, the same for a whole group: that of its first piece. `groups`: by survey number."""
        _, first, group = np.unique(groups[self.numbers], return_index=True, return_inverse=True)
        draws: NDArray[np.float64] = self.draws[first][group]
        return draws

    def repeats(self, duplicates: Duplicates) -> NDArray[np.bool_]:
        """Return which pieces are of a row that repeats an earlier one in every word, bool [pieces]."""
        is_copy: NDArray[np.bool_] = duplicates.exact_of[self.numbers] != self.numbers
        return is_copy

    def mark(self, chosen: NDArray[np.bool_], state: RowState, reason: str) -> None:
        """Note in the fates what became of the rows of some pieces; a row that was also cut says so."""
        for number, collection in enumerate(self.collections):
            fates = collection.fates
            for row in np.unique(self.row_of[chosen & (self.file_of == number)]).tolist():
                was_cut = STATES[fates.states[row]] == "cut"
                fates.change(row, state, f"{reason}, cut: too long" if was_cut else reason)

    def examples_of(self, chosen: NDArray[np.bool_]) -> tuple[Example, ...]:
        """Return the examples that some pieces are of, in order."""
        examples: list[Example] = []
        for number, collection in enumerate(self.collections):
            rows = set(self.row_of[chosen & (self.file_of == number)].tolist())
            examples += collection.examples_at(rows)
        return tuple(examples)


def join_corpora(corpora: Sequence[Corpus], copies: NDArray[np.float32] | None) -> Corpus:
    """Return the rows of several corpora as one."""
    if len(corpora) == 1 and copies is None:
        return corpora[0]
    lengths = np.concatenate([corpus.lengths for corpus in corpora])
    weights = None
    if any(corpus.weights is not None for corpus in corpora):
        weights = np.concatenate(
            [np.ones(len(c.tokens), np.float32) if c.weights is None else c.weights for c in corpora]
        )
    return Corpus(
        np.concatenate([corpus.tokens for corpus in corpora]),
        np.concatenate([corpus.learned for corpus in corpora]),
        np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
        join_places([corpus.places for corpus in corpora]),
        tuple(chain.from_iterable(corpus.sources for corpus in corpora)),
        weights,
        copies,
    )


def join_places(parts: Sequence[Places]) -> Places:
    """Return the places of several parts, each with files of its own, one after another."""
    files: list[str] = []
    numbers = []
    for part in parts:
        numbers.append(part.numbers + np.int32(len(files)))
        files += part.files
    return Places(
        files,
        np.concatenate(numbers),
        np.concatenate([part.lines for part in parts]),
        np.concatenate([part.offsets for part in parts]),
    )


def join_entries(collections: Sequence[Collection]) -> Entries:
    """Return the ledger's lines of all files, in order."""
    words = list(dict.fromkeys(word for collection in collections for word in collection.fates.words))
    states, reasons, places = [], [], []
    for collection in collections:
        fates = collection.fates
        table = np.array([words.index(word) for word in fates.words], dtype=np.int16)
        states.append(np.array(fates.states, dtype=np.int8))
        reasons.append(table[np.array(fates.reasons, dtype=np.int16)])
        lines, offsets = np.array(fates.lines, dtype=np.int64), np.array(fates.offsets, dtype=np.int64)
        places.append(Places((collection.intake.path,), np.zeros(len(lines), np.int32), lines, offsets))
    return Entries(join_places(places), np.concatenate(states), np.concatenate(reasons), words)
