"""Rows that say the same: exact duplicates by key, near-duplicates by the shingles that a template does not explain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from attune.data.duplicates.pairs import Judge
from attune.data.duplicates.shingles import (
    Common,
    Spans,
    chunks_of,
    find_common,
    gather,
    row_spans,
    shingles_at,
    sum_shingles,
)
from attune.data.duplicates.sketch import BANDS, find_candidates, sketch
from attune.data.duplicates.words import Keys, Words, WordStore
from attune.data.lint.catalog import Found
from attune.data.lint.thresholds import DEFAULT, Thresholds
from attune.data.processors import in_threads
from attune.types import Place


@dataclass(frozen=True)
class Duplicates:
    """Which rows repeat which: both arrays int64 [rows], a row that repeats none names itself."""

    exact_of: NDArray[np.int64]  # the first row with the same text
    cluster_of: NDArray[np.int64]  # the first row of the cluster of near-duplicates; exact ones are in it, too

    @cached_property
    def clusters(self) -> list[NDArray[np.int64]]:
        """Clusters of two rows and more, the largest first; rows ascending."""
        order = np.argsort(self.cluster_of, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(self.cluster_of[order])) + 1)
        return sorted((group for group in groups if len(group) > 1), key=lambda group: (-len(group), group[0]))


def find_clusters(store: WordStore, thresholds: Thresholds = DEFAULT) -> Duplicates:
    """Return the duplicates among all rows of a store.

    Two rows are near-duplicates when the shingles that are rare in the data are much the same in both (exact, weighted
    Jaccard), and neither the answer nor a whole passage is another one; clusters are what such pairs connect.
    Candidates come from MinHash, so a pair at the threshold is missed with a probability of about one in a hundred.
    """
    words, keys = store.words(), store.keys()
    exact_of = first_of_equal(keys.row)
    rows = np.flatnonzero(exact_of == np.arange(len(exact_of)))
    common = find_common(words, rows, thresholds)
    same_words = _key_of_words(words, keys)
    equal_of = rows[first_of_equal(same_words[rows])]
    parents = np.arange(len(exact_of))
    parents[rows] = equal_of
    distinct = rows[equal_of == rows]
    judge = Judge(words, keys, common, thresholds)
    for bands, sketched in _sketches(words, common, distinct, thresholds):
        for pairs in _rounds(find_candidates(bands, sketched)):
            # what is in one cluster already need not be compared: the clusters stay the same
            left = pairs[_roots(parents, pairs[:, 0]) != _roots(parents, pairs[:, 1])]
            _unite(parents, left[judge.are_near(left)])
    return Duplicates(exact_of, _roots(parents, exact_of))


def found(
    duplicates: Duplicates, parts: Sequence[str] | NDArray[np.str_], place_of: Callable[[int], Place], most: int
) -> list[Found]:
    """Return D06: the training rows that repeat an earlier one exactly or nearly.

    `parts` names each row's set, such as train or valid; repetitions over two sets are leaks, not duplicates.
    `most`: how many rows get a text.
    """
    train = np.flatnonzero(np.asarray(parts) == "train")
    exact_of = train[first_of_equal(duplicates.exact_of[train].astype(np.uint64))]
    near_of = train[first_of_equal(duplicates.cluster_of[train].astype(np.uint64))]
    is_exact = exact_of != train
    is_near = ~is_exact & (near_of != train)
    results = []
    for name, chosen, first_of, how in (
        ("duplicate", is_exact, exact_of, "repeats"),
        ("near-duplicate", is_near, near_of, "almost repeats"),
    ):
        rows = train[chosen]
        if not len(rows):
            continue
        texts = {int(row): f"{how} {place_of(int(of))}" for row, of in zip(rows[:most], first_of[chosen], strict=False)}
        first, copies = np.unique(first_of[chosen], return_counts=True)
        worst = int(np.argmax(copies))
        groups = f"{len(first)} row{'s' * (len(first) != 1)}"
        others = sum(
            place_of(row).file != place_of(of).file
            for row, of in zip(rows.tolist(), first_of[chosen].tolist(), strict=True)
        )
        across = f" {others} of them repeat a row of another file." if others else ""
        detail = f"copies of {groups}, most of {place_of(int(first[worst]))} ({copies[worst]}).{across}"
        results.append(Found(name, rows.tolist(), texts, detail))
    return results


def first_of_equal(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return for each position the first one that holds the same key, int64 [positions]."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    begins = np.concatenate((np.ones(min(1, len(keys)), np.bool_), ordered[1:] != ordered[:-1]))
    first = np.empty(len(keys), np.int64)
    first[order] = order[np.flatnonzero(begins)][np.cumsum(begins) - 1]
    return first


def _key_of_words(words: Words, keys: Keys) -> NDArray[np.uint64]:
    """Return a key that rows share when they differ in punctuation alone. An answer of punctuation alone counts."""
    sums = sum_shingles(words, Spans(words.starts[:-1], words.starts[1:]))
    is_wordless = words.starts[1:] - words.answer_at == 1
    sums ^= keys.tools * np.uint64(3)
    sums[is_wordless] ^= keys.answer[is_wordless]
    return sums


def _sketches(
    words: Words, common: Common, rows: NDArray[np.int64], thresholds: Thresholds
) -> Iterable[tuple[NDArray[np.uint64], NDArray[np.int64]]]:
    """Yield bands and the rows they are of: by rare shingles, then short rows by all that are in few rows.

    A row of fewer telling shingles is left out: it repeats another one only if all of its words do.
    """
    fewest = np.full(len(rows), thresholds.fewest_shingles)
    bands, num_rare = _sketch(words, common, rows, fewest=fewest)
    yield bands, rows[num_rare >= fewest]
    is_short = num_rare < thresholds.short_shingles
    # worth a second look only with more shingles than in the first
    fewest = np.maximum(fewest, num_rare + 1)[is_short]
    bands, num_telling = _sketch(words, common, rows[is_short], fewest=fewest, share=thresholds.template_share)
    yield bands, rows[is_short][num_telling >= fewest]


def _sketch(
    words: Words, common: Common, rows: NDArray[np.int64], *, fewest: NDArray[np.int64], share: float = 0.0
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return the bands of rows that have enough shingles of at most some share, and how many each row has."""

    def of_chunk(piece: slice) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        chunk = rows[piece]
        positions, bounds = gather(row_spans(words, chunk))
        shingles = shingles_at(words, positions)
        telling = common.share_of(shingles) <= share
        number = np.repeat(np.arange(len(chunk)), np.diff(bounds))
        count = np.bincount(number[telling], minlength=len(chunk))
        chosen = count >= fewest[piece]
        telling &= chosen[number]
        sketch_bounds = np.concatenate((np.zeros(1, np.int64), np.cumsum(count[chosen])))
        return sketch(shingles[telling], sketch_bounds), count

    made = list(in_threads(of_chunk, list(chunks_of(row_spans(words, rows)))))
    empty = (np.empty((BANDS, 0), np.uint64), np.zeros(0, np.int64))
    bands, counts = zip(empty, *made, strict=True)
    return np.concatenate(bands, axis=1), np.concatenate(counts)


def _rounds(pairs: NDArray[np.int64]) -> Iterable[NDArray[np.int64]]:
    """Yield each row's pair with the first row that it is paired with, then its next two, then all others."""
    order = np.argsort(pairs[:, 1], kind="stable")
    ordered = pairs[order]
    starts = np.flatnonzero(np.diff(ordered[:, 1], prepend=-1))
    rank = np.arange(len(ordered)) - np.repeat(starts, np.diff(starts, append=len(ordered)))
    for low, high in ((0, 1), (1, 3), (3, len(pairs))):
        yield ordered[(rank >= low) & (rank < high)]


def _roots(parents: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first row of each row's cluster so far."""
    roots = parents[rows]
    while (parents[roots] != roots).any():
        roots = parents[roots]
    return roots


def _unite(parents: NDArray[np.int64], pairs: NDArray[np.int64]) -> None:
    """Join the clusters of each pair; the smallest row number of a cluster is its root."""
    of = parents.tolist()
    for a, b in pairs.tolist():
        low, high = _root(of, a), _root(of, b)
        if low > high:
            low, high = high, low
        of[high] = low
    parents[:] = of


def _root(of: list[int], row: int) -> int:
    while of[row] != row:
        of[row] = of[of[row]]
        row = of[row]
    return row
