"""The tests behind the guards: paired rows, shares, outliers. Exact for few rows, and cheap enough for every step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

LARGEST_Z = 37.0  # a p of 1e-300, the smallest that a float holds: beyond it z is not told apart


def paired_rise(now: NDArray[np.float64], before: NDArray[np.float64]) -> tuple[float, float, int]:
    """Return how sure `now` is above `before` on the same rows (z), by how much on average, and on how many rows.

    Rows that lack a finite value in either are left out. z is that of a normal distribution with the p of Student's
    paired t-test, so that it means the same for 8 rows as for 2,000; 0 for fewer than 2 rows.
    Source: Miller 2024, arXiv 2411.00640 (paired standard errors).
    """
    rows = min(len(now), len(before))
    difference = (now[:rows] - before[:rows]).astype(np.float64)
    difference = difference[np.isfinite(difference)]
    rows = len(difference)
    if rows < 2:
        return 0.0, 0.0, rows
    mean, error = float(difference.mean()), float(difference.std(ddof=1)) / math.sqrt(rows)
    if error <= 1e-12 * abs(mean):  # all rows moved by the same
        return math.copysign(LARGEST_Z, mean) if mean else 0.0, mean, rows
    p = float(special.stdtr(rows - 1, -abs(mean) / error))
    z = LARGEST_Z if p <= 0 else min(LARGEST_Z, -float(special.ndtri(p)))
    return math.copysign(z, mean), mean, rows


def against_best_of(z: float, tries: int) -> float:
    """Return a positive z as it counts against the best of several tries, whose luck is part of the difference.

    Source: Sidak 1967: the chance that none of k independent tries shows p is (1 - p)^k.
    """
    if z <= 0 or tries <= 1:
        return z
    p = -math.expm1(tries * math.log1p(-float(special.ndtr(-z))))
    return max(0.0, -float(special.ndtri(p)))


def share_above(successes: int, trials: int, share: float) -> float:
    """Return the chance of so many successes or more if each came with probability `share` (exact, one-sided)."""
    if successes <= 0:
        return 1.0
    return float(special.bdtrc(successes - 1, trials, min(share, 1.0)))


def share_below(successes: int, trials: int, share: float) -> float:
    """Return the chance of so few successes or fewer if each came with probability `share` (exact, one-sided)."""
    return float(special.bdtr(successes, trials, min(share, 1.0)))


def robust_z(value: float, others: Sequence[float], least: float) -> tuple[float, float]:
    """Return how many robust deviations `value` lies above the median of `others`, and that median.

    A deviation is 1.4826 times the median distance from the median (the standard deviation of normal values), at least
    `least`.
    """
    values = np.fromiter(others, dtype=np.float64, count=len(others))
    median = _median(values)
    deviation = 1.4826 * _median(np.abs(values - median))
    return (value - median) / max(deviation, least), median


def _median(values: NDArray[np.float64]) -> float:
    """Return the median, several times faster than numpy's general one."""
    ordered, half = np.sort(values), len(values) // 2
    return float(ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2)
