"""Stretches of numbers sorted side by side, and the shingles that many rows share."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from attune.data.duplicates import shingles
from attune.data.duplicates.codes import sort_within
from attune.data.duplicates.shingles import find_common, row_spans, shingles_at
from attune.data.duplicates.words import Words
from attune.data.lint.thresholds import DEFAULT


@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 3], [1] * 9, [5, 0, 700, 1, 33, 2, 64, 65, 0], list(range(60))])
def test_sort_within(lengths: list[int]) -> None:
    """Each stretch is sorted by itself: empty ones, long ones, equal numbers and the greatest number."""
    draw = np.random.default_rng(len(lengths))
    bounds = np.concatenate((np.zeros(1, np.int64), np.cumsum(np.array(lengths, np.int64))))
    values = draw.integers(0, 2**32, bounds[-1], dtype=np.uint32)
    values[draw.random(len(values)) < 0.2] = np.iinfo(np.uint32).max
    values[draw.random(len(values)) < 0.2] = 7
    ordered = sort_within(values, bounds)
    assert ordered.dtype == np.uint32
    for begin, end in pairwise(bounds.tolist()):
        assert ordered[begin:end].tolist() == sorted(values[begin:end].tolist())


@pytest.mark.parametrize("upper_bits", [1, 8, 20])
def test_common_shingles_are_counted_exactly(upper_bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many shingles share their upper bits, the common ones are those of a plain count."""
    monkeypatch.setattr(shingles, "UPPER_BITS", upper_bits)
    draw = np.random.default_rng(3)
    rows = [draw.integers(0, 12, draw.integers(1, 9), dtype=np.uint32) for _ in range(200)]
    starts = np.concatenate((np.zeros(1, np.int64), np.cumsum([len(row) for row in rows])))
    words = Words(np.concatenate([*rows, np.zeros(1, np.uint32)]), starts, starts[:-1])
    common = find_common(words, np.arange(200), DEFAULT)
    counts: Counter[int] = Counter()
    for row in range(200):
        spans = row_spans(words, np.array([row]))
        counts.update(set(shingles_at(words, np.arange(spans.begins[0], spans.ends[0])).tolist()))
    limit = max(DEFAULT.common_fewest_rows, DEFAULT.common_shingle_share * 200)
    assert common.shingles.tolist() == sorted(shingle for shingle, count in counts.items() if count > limit)
    assert common.shares.tolist() == [counts[shingle] / 200 for shingle in common.shingles.tolist()]
    assert 0 < len(common.shingles) < len(counts)
