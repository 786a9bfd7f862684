"""The guards' tests give what scipy's and numpy's general ones give."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from attune.evals.guards.statistics import LARGEST_Z, against_best_of, paired_rise, robust_z, share_above, share_below


@pytest.mark.parametrize("rows", [2, 8, 500])
def test_paired_rise_is_the_paired_t_test(rows: int) -> None:
    """The figure has the p of Student's paired test, so few rows need a larger difference."""
    source = np.random.default_rng(rows)
    before = source.normal(size=rows)
    now = before + 0.1 + 0.3 * source.normal(size=rows)
    z, rise, used = paired_rise(now, before)
    assert used == rows
    assert rise == pytest.approx(np.mean(now - before))
    expected = stats.ttest_rel(now, before, alternative="greater").pvalue
    assert stats.norm.sf(z) == pytest.approx(expected, rel=1e-6)


def test_paired_rise_at_its_limits() -> None:
    """Rows without a loss are left out; rows that all moved alike are as sure as can be; no rows say nothing."""
    before = np.array([1.0, 2.0, np.nan, 3.0])
    assert paired_rise(before + np.array([0.1, 0.2, 0.3, np.nan]), before)[2] == 2
    assert paired_rise(before + 0.5, before) == (LARGEST_Z, 0.5, 3)
    assert paired_rise(before - 0.5, before)[0] == -LARGEST_Z
    assert paired_rise(before, before) == (0.0, 0.0, 3)
    assert paired_rise(np.array([1.0]), np.array([0.0])) == (0.0, 0.0, 1)
    sure = np.linspace(1, 1.001, 2000)
    assert paired_rise(before=np.zeros(2000), now=sure)[0] == LARGEST_Z


def test_the_best_of_several_is_partly_luck() -> None:
    """The corrected z holds its level against the smallest of many draws, and changes nothing for one."""
    source = np.random.default_rng(0)
    lowest, now = source.normal(size=(20_000, 10)).min(axis=1), source.normal(size=20_000)
    z = (now - lowest) / np.sqrt(2)
    plain, corrected = np.mean(z > 2), np.mean([against_best_of(one, 10) > 2 for one in z])
    assert plain > 0.1
    assert corrected < 0.03
    assert against_best_of(2.5, 1) == 2.5
    assert against_best_of(-1.0, 5) == -1.0
    assert 36 < against_best_of(LARGEST_Z, 20) < LARGEST_Z
    assert stats.norm.sf(against_best_of(3.0, 4)) == pytest.approx(1 - stats.norm.cdf(3.0) ** 4)


@pytest.mark.parametrize(("successes", "trials", "share"), [(0, 8, 0.3), (4, 8, 0.125), (8, 8, 0.5), (60, 64, 1.0)])
def test_shares_are_the_exact_binomial(successes: int, trials: int, share: float) -> None:
    """Both tails include what was seen."""
    above = stats.binomtest(successes, trials, share, alternative="greater").pvalue
    below = stats.binomtest(successes, trials, share, alternative="less").pvalue
    assert share_above(successes, trials, share) == pytest.approx(above)
    assert share_below(successes, trials, share) == pytest.approx(below)


@pytest.mark.parametrize("count", [20, 21])
def test_robust_z_is_by_median_and_mad(count: int) -> None:
    """The figure is scipy's median absolute deviation, and steadier values are taken for less steady ones."""
    values = np.random.default_rng(count).normal(size=count)
    z, median = robust_z(3.0, list(values), 0.0)
    assert median == pytest.approx(np.median(values))
    assert z == pytest.approx((3.0 - median) / (1.4826 * stats.median_abs_deviation(values)))
    assert robust_z(1.0, [0.0] * count, 0.5) == (2.0, 0.0)
