"""Paired comparisons give known answers, hold their error rate, and say what they found in plain words."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from math import comb
from typing import Any

import numpy as np
import pytest

from attune.evals import compare as module
from attune.evals.compare import Comparison, compare, correct, mcnemar, sign_flip, verdict_text


def binary(ones: int, rows: int) -> list[float]:
    """Return scores of which the first `ones` are right."""
    return [1.0] * ones + [0.0] * (rows - ones)


def against(metric: str, a: Iterable[float | None], b: Iterable[float | None], **options: Any) -> Comparison:
    """Return tuned (b) against base (a)."""
    return compare(metric, ("base", list(a)), ("tuned", list(b)), **options)


def test_known_difference() -> None:
    """0 of 200 against 197 of 200: +98.5 points, an interval as the binomial gives it, better."""
    found = against("schema_valid", binary(0, 200), binary(197, 200))
    assert (found.a_value, found.b_value, found.difference) == (0, 0.985, 0.985)
    assert found.low == pytest.approx(0.965, abs=0.006)
    assert found.high == 1
    assert found.verdict == "better"
    assert found.p < 1e-50
    assert found.rows == 200


def test_lower_is_better_turns_the_word_not_the_sign() -> None:
    """A loss that falls is better, with a negative difference."""
    rng = np.random.default_rng(0)
    before = rng.normal(3, 0.5, 100)
    found = against("loss", before, before - 0.4, higher_is_better=False)
    assert found.verdict == "better"
    assert found.difference == pytest.approx(-0.4)
    swapped = against("loss", before - 0.4, before, higher_is_better=False)
    assert swapped.verdict == "worse"


def test_no_difference_is_no_evidence() -> None:
    """Equal scores row by row: p = 1, an interval of zero, and no word about what could be found."""
    found = against("exact_match", binary(30, 100), binary(30, 100))
    assert (found.p, found.low, found.high, found.verdict, found.detectable) == (1, 0, 0, "no evidence", None)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 5), (1, 9), (10, 10), (3, 0), (40, 80), (0, 0)])
def test_mcnemar_is_the_exact_binomial_test(only_a: int, only_b: int) -> None:
    """Twice the share of fair coin tosses as uneven as the rows that differ, counted one by one."""
    a = np.array([1.0] * only_a + [0.0] * only_b + [1.0] * 7)
    b = np.array([0.0] * only_a + [1.0] * only_b + [1.0] * 7)
    rows, far = only_a + only_b, abs(only_a - only_b)
    expected = sum(comb(rows, heads) for heads in range(rows + 1) if abs(2 * heads - rows) >= far) / 2**rows
    assert mcnemar(a, b) == pytest.approx(expected)


def test_sign_flip_is_the_permutation_test() -> None:
    """The p is that of all 4,096 ways to swap the systems in twelve rows, to sampling error."""
    rng = np.random.default_rng(3)
    ways = np.array(list(product((-1, 1), repeat=12)))
    for shift in (0.0, 0.3, 0.8):
        d = rng.normal(shift, 1, 12)
        exact = np.mean(np.abs(ways @ d) >= abs(d.sum()) - 1e-9)
        assert sign_flip(d, np.ones(12), rng) == pytest.approx(exact, abs=0.015)


def test_five_rows_prove_nothing() -> None:
    """However large the difference, five rows cannot reach 5 %: neither right-or-wrong nor graded."""
    assert against("m", [0.0] * 5, [1.0] * 5).verdict == "no evidence"
    assert against("m", [0.1] * 5, [0.8, 0.7, 0.9, 0.75, 0.85]).verdict == "no evidence"


@pytest.mark.parametrize("kind", ["binary", "graded", "few rows", "skewed"])
def test_without_an_effect_about_one_in_twenty_is_called_different(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the null at most 5 % of verdicts are better or worse, to the sampling error of 400 trials."""
    monkeypatch.setattr(module, "RESAMPLES", 500)
    rng = np.random.default_rng(7)
    false = 0
    for trial in range(400):
        if kind == "binary":
            a, b = (rng.integers(2, size=80).astype(float) for _ in range(2))
        elif kind == "graded":
            hard = rng.random(60)
            a, b = (np.clip(hard + rng.normal(0, 0.2, 60), 0, 1) for _ in range(2))
        elif kind == "few rows":
            a, b = rng.normal(size=(2, 8))
        else:
            a, b = rng.exponential(size=(2, 60))
        false += against("m", a, b, seed=trial).verdict != "no evidence"
    assert false <= 400 * 0.05 + 3 * np.sqrt(400 * 0.05 * 0.95)
    if kind != "binary":  # the exact test is cautious; the others must not be blind
        assert false >= 4


def test_the_interval_holds_the_true_difference_about_19_times_in_20(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coverage of the 95 % interval at 100 rows, 300 trials."""
    monkeypatch.setattr(module, "RESAMPLES", 500)
    rng = np.random.default_rng(5)
    held = 0
    for trial in range(300):
        a = rng.normal(0, 1, 100)
        found = against("m", list(a), list(a + rng.normal(0.3, 1, 100)), seed=trial)
        held += found.low <= 0.3 <= found.high
    assert 0.90 <= held / 300 <= 0.985


def test_the_detectable_difference_is_found_four_times_in_five(monkeypatch: pytest.MonkeyPatch) -> None:
    """An effect of the stated size is called better in about 80 % of trials."""
    monkeypatch.setattr(module, "RESAMPLES", 500)
    rng = np.random.default_rng(11)
    a = rng.normal(size=100)
    size = against("m", list(a), list(a + rng.normal(0, 1, 100))).detectable
    assert size == pytest.approx(0.28, rel=0.2)
    found = [against("m", [0.0] * 100, list(rng.normal(0.28, 1, 100)), seed=t).verdict for t in range(200)]
    assert 0.7 <= found.count("better") / 200 <= 0.9


def test_both_ways_of_resampling_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting kinds of rows and drawing rows give the same interval, with weights too."""
    rng = np.random.default_rng(0)
    a, b = (list(rng.integers(3, size=400) / 2) for _ in range(2))
    w = list(rng.integers(1, 3, size=400).astype(float))
    fast = against("m", a, b, weights=w)
    jitter = list(np.array(b) + rng.normal(0, 1e-9, 400))
    slow = against("m", a, jitter, weights=w)
    assert (fast.low, fast.high) == pytest.approx((slow.low, slow.high), abs=0.005)


def test_weights_give_the_weighted_mean() -> None:
    """A row of ninety tokens counts ninety times as much as a row of one."""
    found = against("loss", [2.0, 4.0], [1.0, 4.0], weights=[90, 10])
    assert (found.a_value, found.b_value, found.difference) == pytest.approx((2.2, 1.3, -0.9))


def test_rows_without_both_scores_are_left_out() -> None:
    """None and NaN leave a row out on both sides; no row at all is an error."""
    found = against("m", [1.0, None, 0.0, float("nan")], [1.0, 1.0, 1.0, 0.0])
    assert (found.rows, found.difference) == (2, 0.5)
    with pytest.raises(ValueError, match="no row has a score of both base and tuned"):
        against("m", [None], [1.0])
    with pytest.raises(ValueError, match="2 scores of base, 1 of tuned"):
        against("m", [1.0, 1.0], [1.0])


def test_the_same_seed_gives_the_same_figures() -> None:
    """Nothing but the scores and the seed decides."""
    rng = np.random.default_rng(0)
    a, b = (list(rng.random(50)) for _ in range(2))
    assert against("m", a, b, seed=4) == against("m", a, b, seed=4)
    assert against("m", a, b, seed=4) != against("m", a, b, seed=5)


def make(metric: str, difference: float, p: float) -> Comparison:
    """Return a comparison with a given p and an interval that agrees with it."""
    half = abs(difference) * (0.5 if p < 0.05 else 2)
    return Comparison(
        metric, "base", "tuned", 0.5, 0.5 + difference, difference, difference - half, difference + half,
        p, p, "no evidence", 200, 0.06, metric != "loss",
    )  # fmt: skip


def test_holm_corrects_for_the_number_of_metrics() -> None:
    """Sorted p times 4, 3, 2, 1, never falling; a verdict that does not survive is taken back."""
    settled = correct(
        [make("rouge_l", 0.2, 0.01), make("exact_match", 0.1, 0.04), make("loss", -0.2, 0.005), make("x", 0.1, 0.03)]
    )
    assert [c.p_holm for c in settled] == pytest.approx([0.03, 0.06, 0.02, 0.06])
    assert [c.verdict for c in settled] == ["better", "no evidence", "better", "no evidence"]
    assert [c.p for c in settled] == [0.01, 0.04, 0.005, 0.03]


def test_a_handful_of_rows_shows_nothing() -> None:
    """Below six rows no p can be small, so nothing is said to be detectable; six that all agree are evidence."""
    for rows, word in ((5, "no evidence"), (6, "better")):
        alone = against("loss", [2.0 + 0.1 * row for row in range(rows)], [1.0] * rows, higher_is_better=False)
        assert (alone.verdict, alone.detectable is None) == (word, rows == 5)
    few = against("loss", [2.0, 2.1, 2.3], [1.0] * 3, higher_is_better=False)
    assert verdict_text([few]).endswith("So few rows can show nothing, however large the difference: give at least 6.")


def test_the_verdict_in_words() -> None:
    """One or two sentences with the figures of the metric that says most."""
    good = against("schema_valid", binary(0, 200), binary(197, 200))
    same = against("exact_match", binary(3, 200), binary(3, 200))
    assert verdict_text(correct([same, good])) == (
        f"Tuned is better than base on 1 of 2 metrics: schema_valid 0.0 % -> 98.5 % (+98.5 points, 95 % interval "
        f"{100 * good.low:.1f} to 100.0). No evidence either way: exact_match."
    )
    mixed = verdict_text(correct([make("loss", -0.2, 0.001), make("stop_rate", -0.1, 0.001)]))
    assert mixed == (
        "Tuned is better than base on 1 and worse than base on 1 of 2 metrics: loss 0.500 -> 0.300 (-0.200 nats, "
        "95 % interval -0.300 to -0.100). Worse: stop_rate 50.0 % -> 40.0 % (-10.0 points, "
        "95 % interval -15.0 to -5.0)."
    )
    assert verdict_text([make("exact_match", 0.02, 0.4)]) == (
        "No evidence that tuned differs from base on 1 metric: exact_match 50.0 % -> 52.0 % (+2.0 points, "
        "95 % interval -2.0 to 6.0). 200 rows would show a difference of about 6.0 points."
    )
    assert verdict_text([]).startswith("Nothing could be compared")


def test_many_rows_are_drawn_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by CELLS, and the pieces add up to the same answer."""
    rng = np.random.default_rng(0)
    a = rng.random(300)
    b = np.clip(a + rng.normal(0.02, 0.1, 300), 0, 1)
    whole = against("rouge_l", a, b)
    monkeypatch.setattr(module, "CELLS", 7_000)
    pieces = against("rouge_l", a, b)
    assert (pieces.low, pieces.high) == (whole.low, whole.high)
    assert pieces.p == pytest.approx(whole.p, abs=0.01)
