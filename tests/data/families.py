"""Made-up rows that begin alike, for the tests of shared prefixes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.data.corpus import Corpus, Places
from attune.types import Place

VOCABULARY = 61


def corpus_of(
    rows: Sequence[NDArray[np.integer]],
    learned: Sequence[Sequence[bool] | NDArray[Any]],
    *,
    weights: Sequence[NDArray[np.float32]] | None = None,
) -> Corpus:
    """Return a corpus of given rows."""
    return Corpus(
        np.concatenate(rows).astype(np.int32),
        np.concatenate([np.asarray(one, bool) for one in learned]),
        np.cumsum([0, *(len(row) for row in rows)]).astype(np.int64),
        Places.of([Place("rows.jsonl", line + 1, 0) for line in range(len(rows))]),
        ("rows",) * len(rows),
        None if weights is None else np.concatenate(weights).astype(np.float32),
    )


def branching_corpus(*, levels: int, seed: int = 0, weighted: bool = False, width: int = 3) -> Corpus:
    """Return rows that branch `width` ways at each of some levels, some inside what is learned; last, odd rows.

    The odd ones: one twice, one that is the beginning of another, one that branches from another inside its answer and
    one that shares nothing.
    """
    source = np.random.default_rng(seed)

    def made(length: int) -> NDArray[np.int64]:
        return source.integers(3, VOCABULARY, length)

    stems = [made(17)]
    for _ in range(levels - 1):
        stems = [np.concatenate([stem, made(11 + number)]) for stem in stems for number in range(width)]
    rows = [np.concatenate([stem, made(4 + 2 * number)]) for stem in stems for number in range(width)]
    rows += [rows[0], rows[1][:-2], np.concatenate([rows[2][:-3], made(6)]), made(20)]
    learned = [np.arange(len(row)) >= len(row) - 4 - number % 5 for number, row in enumerate(rows)]
    learned[-2] = np.arange(len(rows[-2])) >= len(rows[2]) - 6  # it learns the token in which it differs
    eighths = [source.integers(1, 25, len(row)) / np.float32(8) for row in rows]  # so that sums of them are not rounded
    weights = [one.astype(np.float32) for one in eighths] if weighted else None
    return corpus_of(rows, learned, weights=weights)
