"""How alike a set of answers is: the beginning that most share, how varied their words are, how well they compress."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from attune.data.coverage.wording import compression_ratio, distinct_shares

OPENER_TOKENS = 3


@dataclass(frozen=True, slots=True)
class Wording:
    """How varied a set of answers is. None: there is nothing to measure it on."""

    distinct_2: float | None  # share of different pairs among all pairs of neighbouring words
    compression: float | None  # bytes over compressed bytes
    tokens: float  # mean length


def commonest_opener(answers: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], float]:
    """Return the most frequent first tokens of some answers, the first met of equals, and their share of the answers.

    >>> commonest_opener([[5, 6, 7, 8], [5, 6, 7, 9], [1]])
    ((5, 6, 7), 0.6666666666666666)
    """
    counts = Counter(tuple(answer[:OPENER_TOKENS]) for answer in answers)
    opener, count = counts.most_common(1)[0]
    return opener, count / len(answers)


def compare_wording(
    answers: tuple[Sequence[Sequence[int]], Sequence[str]], references: tuple[Sequence[Sequence[int]], Sequence[str]]
) -> tuple[Wording, Wording]:
    """Return the wording of answers and of their references, each given as tokens and as texts, at least one.

    Repetition grows with length, so pairs of words and bytes are counted on equally many of them on both sides.
    Source: Shaib et al. 2024, "Standardizing the Measurement of Text Diversity", arXiv 2403.00553.
    """
    both = answers[1], references[1]
    words = min(distinct_shares(texts, _ALL)[2] for texts in both)
    size = min(sum(len(text.encode("utf-8", "surrogatepass")) for text in texts) for texts in both)
    found = []
    for ids, texts in (answers, references):
        distinct = distinct_shares(texts, words)[1] if words > 1 else None
        compression = compression_ratio(_first_bytes(texts, size)) if size else None
        found.append(Wording(distinct, compression, sum(map(len, ids)) / len(ids)))
    return found[0], found[1]


_ALL = 10**9  # words: a budget that no set of answers uses up


def _first_bytes(texts: Sequence[str], size: int) -> list[str]:
    """Return the first `size` bytes of some texts; a character that is cut is left out."""
    kept = []
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")[:size]
        kept.append(data.decode("utf-8", "ignore"))
        size -= len(data)
        if not size:
            break
    return kept
