"""Which held-out rows share runs of words with one training row, and how much of them such runs cover."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attune.data.duplicates.codes import BASE, sort_once
from attune.data.duplicates.shingles import gather, row_spans
from attune.data.duplicates.words import Words
from attune.data.lint.thresholds import Thresholds

CHUNK_WORDS = 2_000_000  # of training rows, looked up at once
BATCH_MATCHES = 4_000_000  # matches weighed at once
BUCKET_BITS = 24


class Cover(NamedTuple):
    """For each held-out row, [rows]: how much of it the best training row covers, and whether by a long passage."""

    share: NDArray[np.float64]  # of its words that are no template's, 0 to 1
    train_row: NDArray[np.int64]  # -1 where no training row shares a run
    passage_row: NDArray[np.int64]  # a training row that shares a long passage; -1 where none does


class _Index(NamedTuple):
    """The runs of `n` words of all held-out rows, numbered; P places where one begins."""

    n: int
    grams: NDArray[np.uint64]  # ascending, each once
    buckets: NDArray[np.bool_]  # [2**BUCKET_BITS], by the upper bits
    gram_of: NDArray[np.int64]  # [P], ascending
    place: NDArray[np.int64]  # [P], the position of its first word among all held-out words
    first: NDArray[np.int64]  # [grams + 1], where a gram's places begin
    bounds: NDArray[np.int64]  # [held-out rows + 1], in held-out words


def find_cover(words: Words, held_out: NDArray[np.int64], train: NDArray[np.int64], thresholds: Thresholds) -> Cover:
    """Return what training rows give away of each held-out row; both are row numbers, ascending.

    Runs that are in more than `common_shingle_share` of the training rows, or in very many, are a template's: they
    count for nothing, and neither do the words they cover.
    """
    index = _index(words, held_out, thresholds.leak_ngram)
    limit = max(thresholds.common_fewest_rows, int(thresholds.common_shingle_share * len(train)))
    limit = min(limit, thresholds.leak_most_rows)
    grams, rows, counts = _hits(words, train, index, most=limit)
    rare = counts <= limit
    keep = rare[grams]
    grams, rows = grams[keep], rows[keep]
    return _cover(index, (grams, rows), _count_telling(index, ~rare), thresholds)


def _index(words: Words, held_out: NDArray[np.int64], n: int) -> _Index:
    positions, bounds = gather(row_spans(words, held_out))
    flat = np.append(words.flat[positions], np.zeros(n, np.uint32))
    place = np.arange(len(positions))
    # a run holds no mark, so it lies in the question or in the answer, and as many plain words as figures and signs
    marks = np.concatenate((bounds[:-1], bounds[:-1] + (words.answer_at - words.starts[:-1])[held_out]))
    place = place[(_sums(np.isin(place, marks), n) == 0) & (_sums(flat[: len(place)] & np.uint32(1), n) <= n // 2)]
    keys = runs_of(flat, n)[place]
    order = np.argsort(keys, kind="stable")
    keys, place = keys[order], place[order]
    grams, gram_of, counts = np.unique(keys, return_inverse=True, return_counts=True)
    buckets = np.zeros(1 << BUCKET_BITS, np.bool_)
    buckets[grams >> np.uint64(64 - BUCKET_BITS)] = True
    first = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))
    return _Index(n, grams, buckets, gram_of, place, first, bounds)


def _sums(values: NDArray[Any], n: int) -> NDArray[np.int64]:
    """Return the sum of the n values from each position on; more than n where fewer are left."""
    total = np.concatenate(
        (np.zeros(1, np.int64), np.cumsum(values, dtype=np.int64), np.full(n, np.iinfo(np.int32).max))
    )
    sums: NDArray[np.int64] = (total[n:] - total[:-n])[: len(values)]
    return sums


def runs_of(flat: NDArray[np.uint32], n: int) -> NDArray[np.uint64]:
    """Return a number for the n words from each position on, but for the last n - 1 positions."""
    count = max(0, len(flat) - n + 1)
    runs = np.zeros(count, np.uint64)
    for at in range(n):
        runs *= np.uint64(BASE)
        runs += flat[at : at + count]
    runs ^= runs >> np.uint64(31)
    runs *= np.uint64(0xD6E8FEB86659FD93)
    return runs


def _hits(
    words: Words, train: NDArray[np.int64], index: _Index, *, most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return which indexed runs stand in which training row, rows ascending, and in how many rows each run stands.

    Once a run is known to be in more than `most` rows its further hits are not kept, so memory stays bounded.
    """
    counts = np.zeros(len(index.grams), np.int64)
    all_grams, all_rows = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    lengths = words.starts[train + 1] - words.starts[train]
    piece = np.cumsum(lengths) // CHUNK_WORDS
    for rows in np.split(train, np.flatnonzero(np.diff(piece)) + 1):
        if not len(rows) or not len(index.grams):
            continue
        positions, bounds = gather(row_spans(words, rows))
        runs = runs_of(words.flat[positions], index.n)
        maybe = np.flatnonzero(index.buckets[runs >> np.uint64(64 - BUCKET_BITS)])
        at = np.searchsorted(index.grams, runs[maybe])
        known = at < len(index.grams)
        known[known] = index.grams[at[known]] == runs[maybe[known]]
        grams = at[known]
        owners = np.searchsorted(bounds, maybe[known], side="right") - 1
        once = sort_once(owners * len(index.grams) + grams)
        owners, grams = np.divmod(once, len(index.grams))
        counts += np.bincount(grams, minlength=len(counts))
        keep = counts[grams] <= most
        all_grams.append(grams[keep])
        all_rows.append(rows[owners[keep]])
    return np.concatenate(all_grams), np.concatenate(all_rows), counts


def _count_telling(index: _Index, is_common: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return how many words before each place among the held-out words are in no common run, [words + 1]."""
    steps = np.zeros(int(index.bounds[-1]) + index.n + 1, np.int64)
    begins = index.place[is_common[index.gram_of]]
    steps[begins] += 1  # at most one run begins at a place
    steps[begins + index.n] -= 1
    is_telling = np.cumsum(steps)[: index.bounds[-1]] == 0
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(is_telling)))


def _cover(
    index: _Index,
    hits: tuple[NDArray[np.int64], NDArray[np.int64]],
    telling: NDArray[np.int64],
    thresholds: Thresholds,
) -> Cover:
    rows = len(index.bounds) - 1
    total = telling[index.bounds[1:]] - telling[index.bounds[:-1]]
    best, best_row, passage_row = np.zeros(rows, np.int64), np.full(rows, -1), np.full(rows, -1)
    steps = thresholds.leak_passage - index.n + 1  # so many runs one after another are a passage
    for place, train_row, held_out in _matches(index, *hits):
        is_new = np.ones(len(place), np.bool_)
        is_new[1:] = (held_out[1:] != held_out[:-1]) | (train_row[1:] != train_row[:-1])
        begin = place.copy()
        begin[1:] = np.where(is_new[1:], place[1:], np.maximum(place[1:], place[:-1] + index.n))
        pair = np.flatnonzero(is_new)
        covered = np.add.reduceat(telling[place + index.n] - telling[begin], pair)
        held_out_of, train_row_of = held_out[pair], train_row[pair]
        # the pairs with the least cover first, so that the best one is written last; of equals the earliest row
        rising = np.lexsort((-train_row_of, covered))
        rising = rising[covered[rising] > best[held_out_of[rising]]]
        best[held_out_of[rising]] = covered[rising]
        best_row[held_out_of[rising]] = train_row_of[rising]
        apart = is_new.copy()
        apart[1:] |= place[1:] != place[:-1] + 1
        first = np.flatnonzero(apart)
        long = first[np.diff(first, append=len(place)) >= steps][::-1]
        passage_row[held_out[long]] = np.where(
            passage_row[held_out[long]] < 0, train_row[long], passage_row[held_out[long]]
        )
    # shorter rows share such a run with some row or other: they are compared as wholes only
    share = np.where(total >= thresholds.leak_passage, best / np.maximum(total, 1), 0.0)
    return Cover(share, best_row, passage_row)


def _matches(
    index: _Index, grams: NDArray[np.int64], rows: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Yield where training rows share runs: places among the held-out words, training rows, held-out rows.

    Each batch holds all of a training row, in the order of pairs (held-out row, training row), then of places.
    """
    counts = (index.first[1:] - index.first[:-1])[grams]
    batch = np.cumsum(counts) // BATCH_MATCHES
    is_border = (np.diff(batch) > 0) & (np.diff(rows) > 0) if len(rows) else np.zeros(0, np.bool_)
    for part in np.split(np.arange(len(rows)), np.flatnonzero(is_border) + 1):
        if not len(part):
            continue
        begins = index.first[grams[part]]
        sizes = counts[part]
        offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes)))
        at = np.repeat(begins - offsets[:-1], sizes) + np.arange(offsets[-1])
        place, train_row = index.place[at], np.repeat(rows[part], sizes)
        held_out = np.searchsorted(index.bounds, place, side="right") - 1
        order = np.lexsort((place, train_row, held_out))
        yield place[order], train_row[order], held_out[order]
