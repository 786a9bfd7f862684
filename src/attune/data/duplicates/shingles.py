"""Runs of words as numbers: which of them are a template's, and how alike two stretches of words are."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from attune.data.duplicates.codes import mix, sort_within
from attune.data.duplicates.words import Words
from attune.data.lint.thresholds import Thresholds
from attune.data.processors import in_threads

SAMPLE_ROWS = 50_000  # rows in which shingles are counted; more rows are sampled evenly
SAMPLE_WORDS = 10_000_000
UPPER_BITS = 20  # of a shingle, by which they are counted at first
CHUNK_WORDS = 300_000  # looked at together: few enough for the processor's cache
FACTOR = np.uint64(0xD6E8FEB86659FD93)  # odd, of random bits


class Spans(NamedTuple):
    """Stretches of the flat words: `flat[begins[i]:ends[i]]`."""

    begins: NDArray[np.int64]
    ends: NDArray[np.int64]


class Common(NamedTuple):
    """Shingles of many rows. What stands in all rows tells no two of them apart, so it weighs nothing."""

    shingles: NDArray[np.uint32]  # ascending
    weights: NDArray[np.float64]  # from 0 (in every row) to 1 (just common); all other shingles weigh 1
    shares: NDArray[np.float64]  # of the rows
    buckets: NDArray[np.bool_]  # [2**16], by the upper half of a shingle: whether a common one is in there

    def weigh(self, shingles: NDArray[np.uint32]) -> NDArray[np.float64]:
        """Return the weight of each shingle."""
        weights = np.ones(len(shingles))
        asked, at = self._look_up(shingles)
        weights[asked] = self.weights[at]
        return weights

    def share_of(self, shingles: NDArray[np.uint32]) -> NDArray[np.float64]:
        """Return the share of rows that hold each shingle, 0 where it is not common."""
        shares = np.zeros(len(shingles))
        asked, at = self._look_up(shingles)
        shares[asked] = self.shares[at]
        return shares

    def _look_up(self, shingles: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return which of the shingles are common, and where in the table."""
        asked = np.flatnonzero(self.buckets[shingles >> np.uint32(16)])
        at = np.searchsorted(self.shingles, shingles[asked])
        known = at < len(self.shingles)
        known[known] = self.shingles[at[known]] == shingles[asked[known]]
        return asked[known], at[known]


def gather(spans: Spans) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions of all words of the spans, one span after another, and the bounds of each, [spans + 1]."""
    lengths = spans.ends - spans.begins
    bounds = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
    return np.repeat(spans.begins - bounds[:-1], lengths) + np.arange(bounds[-1]), bounds


def row_spans(words: Words, rows: NDArray[np.int64]) -> Spans:
    """Return the spans of whole rows, marks included."""
    return Spans(words.starts[rows], words.starts[rows + 1])


def shingles_at(words: Words, positions: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Return the pairs of words that begin at some positions. A row's last word pairs with the mark after it."""
    pairs = words.flat[positions].astype(np.uint64) << np.uint64(32)
    return mix(pairs | words.flat[positions + 1])


def chunks_of(spans: Spans) -> Iterator[slice]:
    """Cut spans into stretches of about CHUNK_WORDS words."""
    piece = np.cumsum(spans.ends - spans.begins) // CHUNK_WORDS
    borders = [0, *(np.flatnonzero(np.diff(piece)) + 1).tolist(), len(piece)]
    return (slice(begin, end) for begin, end in pairwise(borders) if end > begin)


def sum_shingles(words: Words, spans: Spans) -> NDArray[np.uint64]:
    """Return one number for the shingles of each span: equal for equal words in the same order, uint64 [spans]."""
    sums = np.zeros(len(spans.begins), np.uint64)
    for piece in chunks_of(spans):
        positions, bounds = gather(Spans(spans.begins[piece], spans.ends[piece]))
        scattered = shingles_at(words, positions) * FACTOR
        scattered ^= scattered >> np.uint64(32)
        sums[piece] = sum_between(scattered * FACTOR, bounds)
    return sums


def sum_between(values: NDArray[np.uint64], bounds: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return the sum of the values between bounds, modulo 2**64; 0 where there are none."""
    total = np.concatenate((np.zeros(1, np.uint64), np.cumsum(values)))
    sums: NDArray[np.uint64] = total[bounds[1:]] - total[bounds[:-1]]
    return sums


def find_common(words: Words, rows: NDArray[np.int64], thresholds: Thresholds) -> Common:
    """Return the shingles that stand in more than `common_shingle_share` of some rows.

    Up to SAMPLE_ROWS rows are counted exactly; of more, an even sample.
    """
    lengths = words.starts[rows + 1] - words.starts[rows]
    mean = max(1.0, float(lengths.mean())) if len(rows) else 1.0
    wanted = int(min(len(rows), SAMPLE_ROWS, max(1000, SAMPLE_WORDS / mean)))
    sample = rows[np.linspace(0, len(rows) - 1, wanted).astype(np.int64)] if len(rows) else rows
    spans = row_spans(words, sample)
    limit = max(thresholds.common_fewest_rows, thresholds.common_shingle_share * len(sample))

    def of_chunk(piece: slice) -> NDArray[np.uint32]:
        return shingles_at(words, gather(Spans(spans.begins[piece], spans.ends[piece]))[0])

    found = np.concatenate([np.zeros(0, np.uint32), *in_threads(of_chunk, list(chunks_of(spans)))])
    # only a shingle whose upper bits are met often can be met often itself: few are left to be sorted
    upper = found >> np.uint32(32 - UPPER_BITS)
    is_often = (np.bincount(upper, minlength=1 << UPPER_BITS) > limit)[upper]
    keys = found[is_often].astype(np.uint64) << np.uint64(32)
    keys |= np.repeat(np.arange(len(sample), dtype=np.uint64), spans.ends - spans.begins)[is_often]
    keys.sort()
    once = keys[np.flatnonzero(np.diff(keys, prepend=keys[:1] - np.uint64(1)))] >> np.uint64(32)
    first = np.flatnonzero(np.diff(once, prepend=once[:1] - np.uint64(1)))
    counts = np.diff(first, append=len(once))
    chosen = counts > limit
    shingles, shares = once[first[chosen]].astype(np.uint32), counts[chosen] / max(1, len(sample))
    weights = np.log(shares) / np.log(limit / max(1, len(sample))) if len(shares) else shares
    buckets = np.zeros(1 << 16, np.bool_)
    buckets[shingles >> np.uint32(16)] = True
    return Common(shingles, weights, shares, buckets)


def jaccard(words: Words, a: Spans, b: Spans, common: Common | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how alike spans are, pair by pair: the weight of shared shingles over that of all; and the latter.

    Without `common` single words are compared, each of weight 1. Two spans without weight are alike (1).
    """
    spans, (of_a, of_b) = _each_once(a, b)
    values, bounds = _distinct(words, spans, is_single=common is None)
    number = np.repeat(np.arange(len(spans.begins)), np.diff(bounds))
    weights = np.bincount(number, _weigh(common, values), len(spans.begins)).astype(np.float64)
    sides = (gather(Spans(bounds[of], bounds[of + 1])) for of in (of_a, of_b))
    both = np.concatenate([_keys(values[at], of_pairs) for at, of_pairs in sides])
    both.sort(kind="stable")
    twice = both[~_is_new(both)]
    pair = (twice >> np.uint64(32)).astype(np.int64)
    shared = np.bincount(pair, _weigh(common, twice.astype(np.uint32)), len(of_a)).astype(np.float64)
    union = weights[of_a] + weights[of_b] - shared
    alike = np.ones(len(union))
    np.divide(shared, union, out=alike, where=union > 0)
    return alike, union


def _each_once(a: Spans, b: Spans) -> tuple[Spans, tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return the different spans of two sides, and which of them each side has: a row is in several pairs."""
    begins, lengths = np.concatenate((a.begins, b.begins)), np.concatenate((a.ends - a.begins, b.ends - b.begins))
    width = int(lengths.max(initial=0)) + 1
    keys, of = np.unique(begins * width + lengths, return_inverse=True)
    begins = keys // width
    return Spans(begins, begins + keys % width), (of[: len(a.begins)], of[len(a.begins) :])


def _distinct(words: Words, spans: Spans, *, is_single: bool) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Return the shingles (`is_single`: the words) of each span, each once and ascending, and the bounds of each."""
    positions, bounds = gather(spans)
    found = words.flat[positions] if is_single else shingles_at(words, positions)
    keys = _keys(sort_within(found, bounds), bounds)
    is_new = _is_new(keys)
    total = np.concatenate((np.zeros(1, np.int64), np.cumsum(is_new, dtype=np.int64)))
    return keys[is_new].astype(np.uint32), total[bounds]


def _keys(values: NDArray[np.uint32], bounds: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return values, each under the number of the stretch between bounds that it is in."""
    keys = np.repeat(np.arange(len(bounds) - 1, dtype=np.uint64) << np.uint64(32), np.diff(bounds))
    keys |= values
    return keys


def _is_new(ordered: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return which of some numbers in order differ from the one before."""
    is_new = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=is_new[1:])
    return is_new


def _weigh(common: Common | None, shingles: NDArray[np.uint32]) -> NDArray[np.float64]:
    return np.ones(len(shingles)) if common is None else common.weigh(shingles)
