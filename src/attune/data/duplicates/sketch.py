"""Which rows may be alike: MinHash sketches of their shingles in bands; rows with an equal band are candidates."""

from __future__ import annotations

from itertools import chain

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from attune.data.duplicates.codes import sort_once
from attune.data.processors import in_threads

BANDS, BAND_SIZE = 25, 5  # two rows of Jaccard 0.7 share a band with probability 0.99, of 0.3 with 0.06
SEED = 11
LARGE_BUCKET = 12  # rows; up to here all pairs are candidates
NEIGHBOURS = 4  # in a larger bucket, each row and those that follow it


def sketch(shingles: NDArray[np.uint32], bounds: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return the bands of each row's sketch, uint64 [BANDS, rows]; row r has `shingles[bounds[r]:bounds[r + 1]]`."""
    digests = RMinHash.digest_matrix_from_flat_token_hashes(
        shingles.astype(np.uint64), bounds.astype(np.uint64), num_perm=BANDS * BAND_SIZE, seed=SEED
    )
    numbers = chain.from_iterable(digests.to_rows())  # rensa gives lists only
    rows = np.fromiter(numbers, np.uint64, (len(bounds) - 1) * BANDS * BAND_SIZE).reshape(-1, BANDS, BAND_SIZE)
    bands = rows[:, :, 0].copy()
    for at in range(1, BAND_SIZE):
        bands = bands * np.uint64(0x9E3779B97F4A7C15) + rows[:, :, at]
        bands ^= bands >> np.uint64(29)
    return np.ascontiguousarray(bands.T)


def find_candidates(bands: NDArray[np.uint64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return pairs of rows that share a band, each once and smaller number first, int64 [pairs, 2].

    In a large bucket, rows are put in the order of their next bands, so that those most alike are neighbours; then
    each is paired with the next few and with the first. The cost is linear in the rows.
    """

    def of_band(number: int) -> list[NDArray[np.uint64]]:
        band, found = bands[number], []
        order = np.argsort(band, kind="stable")
        sizes, first = _runs(band[order])
        for size in range(2, LARGE_BUCKET + 1):
            buckets = order[first[sizes == size, None] + np.arange(size)]
            left, right = np.triu_indices(size, 1)
            found.append(_packed(rows[buckets[:, left].ravel()], rows[buckets[:, right].ravel()]))
        is_large = sizes > LARGE_BUCKET
        found += _neighbours(bands, rows, (order, first[is_large], sizes[is_large]), number)
        return found

    found = chain.from_iterable(in_threads(of_band, range(len(bands))))
    packed = sort_once(np.concatenate([np.zeros(0, np.uint64), *found]))
    return np.stack((packed >> np.uint64(32), packed & np.uint64(0xFFFFFFFF)), axis=1).astype(np.int64)


def _runs(ordered: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the sizes and first positions of runs of equal numbers, for runs of two or more."""
    first = np.flatnonzero(np.concatenate((np.ones(min(1, len(ordered)), np.bool_), ordered[1:] != ordered[:-1])))
    sizes = np.diff(first, append=len(ordered))
    return sizes[sizes > 1], first[sizes > 1]


def _neighbours(
    bands: NDArray[np.uint64],
    rows: NDArray[np.int64],
    buckets: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    number: int,
) -> list[NDArray[np.uint64]]:
    """Return the pairs of one band's large buckets. `buckets`: rows in order, where each bucket begins, its size."""
    order, first, sizes = buckets
    bucket = np.repeat(np.arange(len(sizes)), sizes)
    starts = np.cumsum(sizes) - sizes
    members = order[np.repeat(first - starts, sizes) + np.arange(len(bucket))]
    following = [bands[(number + step) % BANDS][members] for step in (3, 2, 1)]
    ordered = rows[members[np.lexsort((*following, bucket))]]
    is_later = np.ones(len(ordered), np.bool_)
    is_later[starts] = False
    found = [_packed(ordered[is_later], np.repeat(ordered[starts], sizes)[is_later])]
    for step in range(1, NEIGHBOURS + 1):
        is_one = bucket[step:] == bucket[:-step]
        found.append(_packed(ordered[step:][is_one], ordered[:-step][is_one]))
    return found


def _packed(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.uint64]:
    low, high = np.minimum(a, b).astype(np.uint64), np.maximum(a, b).astype(np.uint64)
    low <<= np.uint64(32)
    low |= high
    return low
