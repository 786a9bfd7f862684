"""Two systems on the same rows: paired differences with intervals, and a verdict in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Verdict = Literal["better", "worse", "no evidence"]  # of b against a; never "equal": that cannot be shown
Floats = NDArray[np.float64]
Scores = tuple[str, Sequence[float | None]]  # the name of a system, and its score on every row

RESAMPLES = 10_000
LEVEL = 0.05  # a verdict needs a p below this, after Holm, and a 95 % interval without zero
FEWEST_ROWS = 6  # with 5, the smallest p that swapping them can give is 2 / 2^5 = 0.06
POWER = 2.8  # 1.96 + 0.84: the difference, in standard errors, that is found 80 times in 100
IN_NATS = ("loss", "general_loss")  # shown as they are; every other metric is a share, shown in percent
CELLS = 2**22  # numbers drawn at once, to bound memory

# Which metric a verdict names first: the one that says most about the answers.
HEADLINES = (
    "schema_valid",
    "field_accuracy",
    "json_valid",
    "label_accuracy",
    "numeric_match",
    "exact_match",
    "rouge_l",
    "loss",
    "stop_rate",
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """System b against system a on one metric, over the rows that both have a score for.

    `difference` is b minus a, [low, high] its 95 % interval; `p` is two-sided, `p_holm` the same corrected for the
    metrics beside it. `detectable`: the difference that so many rows show 80 times in 100 (None if no row differs, or
    rows are so few that no difference shows).
    """

    metric: str
    a: str
    b: str
    a_value: float
    b_value: float
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    verdict: Verdict
    rows: int
    detectable: float | None
    higher_is_better: bool = True


def compare(
    metric: str,
    a: Scores,
    b: Scores,
    *,
    weights: Sequence[float] | None = None,
    higher_is_better: bool = True,
    seed: int = 0,
) -> Comparison:
    """Return how system b does against a on the same rows in the same order; rows without both scores are left out.

    The interval is a paired bootstrap over rows (percentiles). p is McNemar's exact test where all scores are 0 or 1,
    else a sign-flip test of the paired differences, which holds its level for few rows where a bootstrap does not.
    With `weights` (learned tokens, say) values and difference are weighted means. Raises: ValueError without rows.
    """
    (a_name, a_scores), (b_name, b_scores) = a, b
    if len(a_scores) != len(b_scores):
        raise ValueError(f"{metric}: {len(a_scores)} scores of {a_name}, {len(b_scores)} of {b_name}")
    x, y = _floats(a_scores), _floats(b_scores)
    w = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=np.float64)
    both = ~(np.isnan(x) | np.isnan(y)) & (w > 0)
    x, y, w = x[both], y[both], w[both]
    if not len(x):
        raise ValueError(f"{metric}: no row has a score of both {a_name} and {b_name}")
    source = np.random.default_rng(seed)
    means = bootstrap_means(y - x, w, source)
    low, high = (float(edge) for edge in np.quantile(means, (LEVEL / 2, 1 - LEVEL / 2)))
    is_binary = weights is None and set(np.unique(np.concatenate((x, y)))) <= {0.0, 1.0}
    p = mcnemar(x, y) if is_binary else sign_flip(y - x, w, source)
    difference = float((w @ (y - x)) / w.sum())
    error = float(np.sqrt(np.sum((w * (y - x - difference)) ** 2)) / w.sum())
    found = Comparison(
        metric=metric,
        a=a_name,
        b=b_name,
        a_value=float((w @ x) / w.sum()),
        b_value=float((w @ y) / w.sum()),
        difference=difference,
        low=low,
        high=high,
        p=p,
        p_holm=p,
        verdict="no evidence",
        rows=len(x),
        detectable=POWER * error if error > 0 and len(x) >= FEWEST_ROWS else None,
        higher_is_better=higher_is_better,
    )
    return replace(found, verdict=_judge(found))


def _floats(scores: Sequence[float | None]) -> Floats:
    return np.array([np.nan if value is None else value for value in scores], dtype=np.float64)


def _judge(found: Comparison) -> Verdict:
    """Return the word for a comparison: both its p and its interval must speak."""
    if found.p_holm >= LEVEL or found.low <= 0 <= found.high:
        return "no evidence"
    return "better" if (found.difference > 0) == found.higher_is_better else "worse"


def bootstrap_means(differences: Floats, weights: Floats, source: np.random.Generator) -> Floats:
    """Return RESAMPLES weighted means of `differences`, each over rows drawn with replacement: float64 [RESAMPLES]."""
    rows = np.stack((differences * weights, weights), axis=1)
    kinds, counts = np.unique(rows, axis=0, return_counts=True)
    if len(kinds) * 4 <= len(rows):  # few different rows: draw how often each kind comes, which is the same and faster
        sums = source.multinomial(len(rows), counts / len(rows), size=RESAMPLES) @ kinds
        return np.asarray(sums[:, 0] / sums[:, 1])
    means = np.empty(RESAMPLES)
    step = max(1, CELLS // len(rows))
    for first in range(0, RESAMPLES, step):
        last = min(first + step, RESAMPLES)
        sums = rows[source.integers(len(rows), size=(last - first, len(rows)))].sum(axis=1)
        means[first:last] = sums[:, 0] / sums[:, 1]
    return means


def mcnemar(a: Floats, b: Floats) -> float:
    """Return the exact two-sided p of McNemar's test: are the rows that only one gets right split evenly?"""
    only_a, only_b = int(np.sum((a == 1) & (b == 0))), int(np.sum((a == 0) & (b == 1)))
    discordant, fewer = only_a + only_b, min(only_a, only_b)
    ways = tail = 1  # whole numbers: exact at any size
    for count in range(fewer):
        ways = ways * (discordant - count) // (count + 1)
        tail += ways
    return float(min(1.0, 2 * tail / 2**discordant))


def sign_flip(differences: Floats, weights: Floats, source: np.random.Generator) -> float:
    """Return the two-sided p of a paired permutation test: swapping the systems row by row, RESAMPLES times.

    Rows that do not differ change nothing. Source: Fisher's randomisation test; the observed order counts as one draw.
    """
    parts = (differences * weights)[differences != 0]
    if not len(parts):
        return 1.0
    observed = abs(parts.sum()) - 1e-12 * np.abs(parts).sum()  # sums in another order may differ by rounding
    extreme, step = 0, max(1, CELLS // len(parts))
    for first in range(0, RESAMPLES, step):
        draws = min(step, RESAMPLES - first)
        signs = source.integers(2, size=(draws, len(parts)), dtype=np.int8).astype(np.float64) * 2 - 1
        extreme += int(np.sum(np.abs(signs @ parts) >= observed))
    return (extreme + 1) / (RESAMPLES + 1)


def correct(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return comparisons with p corrected for their number (Holm), and their verdicts anew."""
    order = sorted(range(len(comparisons)), key=lambda at: comparisons[at].p)
    corrected, largest = [0.0] * len(order), 0.0
    for rank, at in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * comparisons[at].p))
        corrected[at] = largest
    out = []
    for found, p in zip(comparisons, corrected, strict=True):
        settled = replace(found, p_holm=p)
        out.append(replace(settled, verdict=_judge(settled)))
    return out


def verdict_text(comparisons: Sequence[Comparison]) -> str:
    """Return one or two sentences with figures on what `comparisons` (one pair of systems) show."""
    if not comparisons:
        return "Nothing could be compared: no metric applies to these rows."
    by_word = {word: [c for c in comparisons if c.verdict == word] for word in ("better", "worse", "no evidence")}
    better, worse = by_word["better"], by_word["worse"]
    b, a = comparisons[0].b.capitalize(), comparisons[0].a
    total = f"{len(comparisons)} metric{'s' * (len(comparisons) != 1)}"
    if not better and not worse:
        first = _headline(comparisons)
        text = f"No evidence that {b.lower()} differs from {a} on {total}: {_figures(first)}."
        if first.rows < FEWEST_ROWS:
            text += f" So few rows can show nothing, however large the difference: give at least {FEWEST_ROWS}."
        elif first.detectable is not None:
            text += f" {first.rows} rows would show a difference of about {_size(first.metric, first.detectable)}."
        return text
    words = [f"{word} than {a} on {len(found)}" for word, found in (("better", better), ("worse", worse)) if found]
    text = f"{b} is {' and '.join(words)} of {total}: {_figures(_headline(better or worse))}."
    if better and worse:
        text += f" Worse: {_figures(_headline(worse))}."
    elif by_word["no evidence"]:
        text += f" No evidence either way: {', '.join(c.metric for c in by_word['no evidence'])}."
    return text


def _headline(comparisons: Sequence[Comparison]) -> Comparison:
    """Return the comparison that says most."""
    places = {name: place for place, name in enumerate(HEADLINES)}
    return min(comparisons, key=lambda found: places.get(found.metric, len(places)))


def _figures(found: Comparison) -> str:
    """Return a comparison in figures, such as `rouge_l 20.0 % -> 30.5 % (+10.5 points, 95 % interval 8.1 to 12.9)`."""
    values = (found.a_value, found.b_value, found.difference, found.low, found.high)
    if found.metric in IN_NATS:
        before, after, change, low, high = values
        interval = f"95 % interval {low:+.3f} to {high:+.3f}"
        return f"{found.metric} {before:.3f} -> {after:.3f} ({change:+.3f} nats, {interval})"
    before, after, change, low, high = (100 * value for value in values)
    interval = f"95 % interval {low:.1f} to {high:.1f}"
    return f"{found.metric} {before:.1f} % -> {after:.1f} % ({change:+.1f} points, {interval})"


def _size(metric: str, difference: float) -> str:
    return f"{difference:.3f} nats" if metric in IN_NATS else f"{100 * difference:.1f} points"
