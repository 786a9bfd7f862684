"""Are the prompts that come like the prompts that are trained on? A classifier that cannot tell them apart says yes."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import xxhash
from numpy.typing import NDArray

from attune.data.coverage.wording import OneSided, one_sided, split_words
from attune.data.lint.catalog import RULES
from attune.data.lint.thresholds import DEFAULT, Thresholds
from attune.types import Finding, Place

Verdict = Literal["alike", "mismatch", "strong mismatch", "too few prompts"]

_SHOWN_PROMPTS = 20
_SHOWN_WORDS = 20
_SHOWN_CHARACTERS = 200  # of a prompt
_LIKE_ANOTHER = 0.8  # cosine from which a prompt is not listed beside one that is listed already
_LEAST_WEIGHT, _MOST_WEIGHT = 0.2, 5.0
_FEATURES = 2**16

_Scores = tuple[NDArray[np.float64], NDArray[np.float64]]  # of the training prompts, of the real ones


@dataclass(frozen=True, slots=True)
class Unlike:
    """A real prompt. `score`: the share of training prompts that look as much like a real prompt as it does, 0 to 1.

    Among prompts that are like the training prompts, one in a hundred has a score below 0.01.
    """

    at: int  # in the real prompts as they were given
    text: str
    score: float


@dataclass(frozen=True, slots=True)
class Mismatch:
    """How well training prompts and real prompts can be told apart.

    auc: the chance that of one prompt of each kind, both unseen, the classifier names the real one; 0.5 is guessing.
    low, high: its 95 % interval. z: its distance from 0.5 in standard errors. None where there are too few prompts.
    """

    verdict: Verdict
    rows_train: int  # different prompts that were compared
    rows_real: int
    auc: float | None = None
    low: float | None = None
    high: float | None = None
    z: float | None = None
    num_unlike: int = 0  # of the compared real prompts: those with a score below 0.01
    unlike: tuple[Unlike, ...] = ()  # least like training first, none nearly the same as one before it
    words_real: tuple[OneSided, ...] = ()
    words_train: tuple[OneSided, ...] = ()
    length_gap: float = 0.0  # Kolmogorov-Smirnov statistic of the prompts' numbers of words, 0 to 1
    length_p: float = 1.0
    weights: tuple[float, ...] = ()  # for each training prompt as given: how much oftener to draw it, 0.2 to 5

    def document(self) -> dict[str, Any]:
        """Return it as JSON can hold it, without the weights."""
        return {
            "verdict": self.verdict,
            "rows_train": self.rows_train,
            "rows_real": self.rows_real,
            "auc": self.auc,
            "low": self.low,
            "high": self.high,
            "z": self.z,
            "rows_unlike": self.num_unlike,
            "unlike": [{"text": prompt.text, "score": prompt.score} for prompt in self.unlike],
            "words_real": [[found.word, found.weight] for found in self.words_real],
            "words_train": [[found.word, found.weight] for found in self.words_train],
            "length_gap": self.length_gap,
            "length_p": self.length_p,
        }


@dataclass(frozen=True, slots=True)
class _Side:
    """The different prompts of one side: their text, where they stood, and the half that each falls into."""

    texts: list[str]
    at: list[int]
    halves: NDArray[np.bool_]


def compare_prompts(
    train: Sequence[str], real: Sequence[str], *, seed: int = 0, thresholds: Thresholds = DEFAULT
) -> Mismatch:
    """Return how well the real prompts can be told from the training prompts.

    A classifier two-sample test: words and pairs of words, logistic regression fitted on one half of both sides, its
    AUC measured on the other half only (pooled folds would lie). A prompt counts once however often it stands there,
    and falls into the same half on both sides, so nothing is known beforehand about the half that is judged.
    At most `mismatch_most_prompts` of each side are compared. Empty prompts are left out.
    Source: Lopez-Paz and Oquab 2017, "Revisiting Classifier Two-Sample Tests", arXiv 1610.06545.
    """
    sides = [_side(prompts, seed, thresholds.mismatch_most_prompts) for prompts in (train, real)]
    counts = len(sides[0].texts), len(sides[1].texts)
    if min(counts) < thresholds.mismatch_fewest_prompts:
        return Mismatch("too few prompts", *counts)
    from scipy.stats import ks_2samp

    scores, vectors = _score(sides[0], sides[1])
    judged = [scores[side][sides[side].halves] for side in (0, 1)]
    auc = area_under_curve(judged[1], judged[0])
    low, high = area_interval(auc, len(judged[1]), len(judged[0]))
    z = (auc - 0.5) / null_error(len(judged[0]), len(judged[1]))
    lengths = [[len(split_words(text)) for text in side.texts] for side in sides]
    gap = ks_2samp(*lengths, method="asymp")
    words_real, words_train = one_sided(sides[1].texts, sides[0].texts, _SHOWN_WORDS)
    return Mismatch(
        _verdict(auc, z, thresholds),
        *counts,
        auc,
        low,
        high,
        z,
        num_unlike=int((_likeness(scores) < thresholds.mismatch_unlike).sum()),
        unlike=_least_alike(sides[1], scores, vectors),
        words_real=tuple(words_real),
        words_train=tuple(words_train),
        length_gap=float(gap.statistic),
        length_p=float(gap.pvalue),
        weights=_weights(train, sides[0], scores[0]),
    )


def find_mismatch(mismatch: Mismatch, places: Sequence[Place], thresholds: Thresholds = DEFAULT) -> Finding:
    """Return rule D11 of a comparison: always a finding, of severity info where there is nothing to mend.

    places: of each real prompt as it was given to `compare_prompts`. `rows` and `share` are of the real prompts.
    """
    rule = RULES["mismatch"]
    if mismatch.auc is None:
        fewest = thresholds.mismatch_fewest_prompts
        text = (
            f"{mismatch.rows_real} different real prompts and {mismatch.rows_train} different training prompts: "
            f"at least {fewest} of each are needed to say whether they are alike."
        )
        return Finding(rule.id, rule.name, "info", 0, 0.0, text, "Collect more real prompts.")
    figures = (
        f"a classifier tells {_percent(mismatch.auc)} of the pairs of one real and one training prompt apart "
        f"(95 % interval {_percent(mismatch.low)} to {_percent(mismatch.high)}; 50 % is guessing)"
    )
    if mismatch.verdict == "alike":
        return Finding(
            rule.id, rule.name, "info", 0, 0.0, f"real prompts are like the training prompts: {figures}.", ""
        )
    rows = mismatch.num_unlike
    words = ", ".join(f'"{found.word}"' for found in mismatch.words_real[:6])
    said = f" Words of real prompts that training lacks: {words}." if words else ""
    share = rows / mismatch.rows_real
    text = f"{rows} of {mismatch.rows_real} real prompts are unlike the training prompts: {figures}.{said} {rule.harm}"
    examples = tuple(
        {"file": places[found.at].file, "line": places[found.at].line, "text": found.text} for found in mismatch.unlike
    )
    return Finding(rule.id, rule.name, rule.severity, rows, share, text, rule.fix, examples)


def area_under_curve(positive: NDArray[np.floating[Any]], negative: NDArray[np.floating[Any]]) -> float:
    """Return the chance that a positive has a higher score than a negative; equal scores count one half."""
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left") + np.searchsorted(ordered, positive, side="right")
    return float(below.sum() / (2 * len(positive) * len(negative)))


def null_error(num_one: int, num_other: int) -> float:
    """Return the standard error of the AUC of two samples of one kind (Mann and Whitney 1947)."""
    return math.sqrt((num_one + num_other + 1) / (12 * num_one * num_other))


def area_interval(auc: float, num_one: int, num_other: int) -> tuple[float, float]:
    """Return the 95 % interval of an AUC: the true values that would put the measured one within 1.96 of their errors.

    It keeps a width at an AUC of 1, where the usual one shrinks to nothing.
    Source: Newcombe 2006, Statistics in Medicine 25:559, method 5.
    """
    mean = (num_one + num_other) / 2

    def distance(true: float) -> float:
        spread = 1 + (mean - 1) * ((1 - true) / (2 - true) + true / (1 + true))
        return abs(auc - true) - 1.96 * math.sqrt(true * (1 - true) * spread / (num_one * num_other))

    def edge(inside: float, outside: float) -> float:
        for _ in range(50):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if distance(middle) <= 0 else (inside, middle)
        return inside

    return edge(auc, 0.0), edge(auc, 1.0)


def _side(prompts: Sequence[str], seed: int, most: int) -> _Side:
    """Return the different prompts with the smallest hashes; a hash's other end says which half a prompt falls into."""
    keys: dict[int, int] = {}
    for at, prompt in enumerate(prompts):
        if prompt.strip():
            keys.setdefault(_key(prompt, seed), at)
    chosen = sorted(keys)[:most]
    places = [keys[key] for key in chosen]
    halves = np.array([key & 1 == 1 for key in chosen], dtype=np.bool_)
    return _Side([prompts[at] for at in places], places, halves)


def _key(prompt: str, seed: int) -> int:
    """Return a hash of a prompt, blind to case, spacing and Unicode variants."""
    canonical = " ".join(unicodedata.normalize("NFKC", prompt).casefold().split())
    return xxhash.xxh3_64_intdigest(canonical.encode("utf-8", "surrogatepass"), seed)


def _score(train: _Side, real: _Side) -> tuple[_Scores, Any]:
    """Return for each prompt the chance that it is a real one, by the classifier that was fitted on the other half.

    Also which words the real prompts hold, sparse [real, features], each row of length 1.
    """
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import normalize

    hashed = HashingVectorizer(analyzer=_features, n_features=_FEATURES, alternate_sign=False, norm=None, binary=True)
    vectors = hashed.transform([*train.texts, *real.texts])
    is_real = np.repeat([False, True], [len(train.texts), len(real.texts)])
    halves = np.concatenate([train.halves, real.halves])
    scores = np.zeros(len(is_real))
    for judged in (True, False):
        fitted = halves != judged
        rarity = TfidfTransformer().fit(vectors[fitted])
        weighted = rarity.transform(vectors)
        classifier = LogisticRegression(class_weight="balanced", solver="liblinear", random_state=0)
        classifier.fit(weighted[fitted], is_real[fitted])
        scores[halves == judged] = classifier.predict_proba(weighted[halves == judged])[:, 1]
    return (scores[~is_real], scores[is_real]), normalize(vectors[is_real])


def _features(text: str) -> list[str]:
    """Return the words of a text and its pairs of neighbouring words."""
    words = split_words(text)
    return words + [f"{first} {second}" for first, second in pairwise(words)]


def _verdict(auc: float, z: float, thresholds: Thresholds) -> Verdict:
    if auc < thresholds.mismatch_auc or z <= thresholds.mismatch_z:
        return "alike"
    return "strong mismatch" if auc >= thresholds.mismatch_error_auc else "mismatch"


def _likeness(scores: _Scores) -> NDArray[np.float64]:
    """Return for each real prompt the share of training prompts that look at least as real."""
    return 1 - np.searchsorted(np.sort(scores[0]), scores[1], side="left") / len(scores[0])


def _least_alike(real: _Side, scores: _Scores, vectors: Any) -> tuple[Unlike, ...]:
    """Return the real prompts least like the training prompts, without those that nearly repeat a listed one."""
    likeness = _likeness(scores)
    listed: list[int] = []
    for at in np.argsort(-scores[1], kind="stable")[: 10 * _SHOWN_PROMPTS]:
        if len(listed) == _SHOWN_PROMPTS:
            break
        if not listed or (vectors[listed] @ vectors[at].T).max() < _LIKE_ANOTHER:
            listed.append(int(at))
    shown = [" ".join(real.texts[at].split()) for at in listed]
    cut = [text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 3]}..." for text in shown]
    return tuple(Unlike(real.at[at], text, float(likeness[at])) for at, text in zip(listed, cut, strict=True))


def _weights(train: Sequence[str], side: _Side, scores: NDArray[np.float64]) -> tuple[float, ...]:
    """Return p / (1 - p) for each training prompt, within bounds; 1 for one that was not compared."""
    odds = np.clip(scores / np.maximum(1 - scores, 1e-9), _LEAST_WEIGHT, _MOST_WEIGHT)
    known = {_key(text, 0): weight for text, weight in zip(side.texts, odds.tolist(), strict=True)}
    return tuple(known.get(_key(prompt, 0), 1.0) for prompt in train)


def _percent(value: float | None) -> str:
    return f"{100 * (value or 0.0):.0f} %"
