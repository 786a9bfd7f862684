"""Texts by their words, for people: how many, how varied, and which ones stand on one side only."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice, pairwise
from typing import NamedTuple

import numpy as np

# A run of letters and digits, with an apostrophe inside; a character of Chinese, Japanese or Thai is a word of its own.
_OWN = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_OWN}]|(?:(?![{_OWN}])\w)+(?:['’](?:(?![{_OWN}])\w)+)*")
_PLAIN_WORD = re.compile(r"\w+(?:'\w+)*")
_COMPRESSED_BYTES = 2_000_000
_PRIOR = 0.5  # prompts that are assumed to hold each word on each side: a word seen once says little


class OneSided(NamedTuple):
    """A word that one side uses more. `weight`: the log odds ratio in units of its standard error."""

    word: str
    weight: float
    share: float  # of the prompts of its side that hold it, 0 to 1
    other_share: float


def split_words(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return (_PLAIN_WORD if text.isascii() else _WORD).findall(text.lower())


def distinct_shares(texts: Iterable[str], budget: int) -> tuple[float, float, int]:
    """Return the shares of different words and of different pairs of words, among the first `budget` words.

    Both fall as texts grow, so they compare only on the same number of words: it is returned third.
    """
    words: set[str] = set()
    pairs: set[tuple[str, str]] = set()
    taken = num_pairs = 0
    for text in texts:
        if taken >= budget:
            break
        found = split_words(text)[: budget - taken]
        taken += len(found)
        words.update(found)
        pairs.update(pairwise(found))
        num_pairs += max(0, len(found) - 1)
    return len(words) / max(1, taken), len(pairs) / max(1, num_pairs), taken


def compression_ratio(texts: Iterable[str]) -> float:
    """Return how many times smaller zlib makes the first 2 MB of texts; 0 without any. Prose has 2.5 to 3."""
    pieces, size = [], 0
    for text in texts:
        pieces.append(text.encode("utf-8", "surrogatepass")[: _COMPRESSED_BYTES - size])
        size += len(pieces[-1])
        if size >= _COMPRESSED_BYTES:
            break
    raw = b"\n".join(pieces)
    return len(raw) / len(zlib.compress(raw, 6)) if size else 0.0


def one_sided(one: Sequence[str], other: Sequence[str], most: int) -> tuple[list[OneSided], list[OneSided]]:
    """Return the words by which two sets of texts differ most: those that `one` uses more, those that `other` does.

    Words are ranked by the log odds ratio of the texts that hold them, in units of its standard error.
    Source: Monroe, Colaresi and Quinn 2008, "Fightin' Words", with a flat prior.
    """
    counts = [Counter(word for text in side for word in set(split_words(text))) for side in (one, other)]
    words = sorted(counts[0].keys() | counts[1].keys())
    held = np.array([[count[word] for word in words] for count in counts], dtype=np.float64).reshape(2, -1)
    sizes = np.array([[max(1, len(one))], [max(1, len(other))]], dtype=np.float64)
    log_odds = np.log((held + _PRIOR) / (sizes - held + _PRIOR))
    error = np.sqrt((1 / (held + _PRIOR) + 1 / (sizes - held + _PRIOR)).sum(axis=0))
    weights = (log_odds[0] - log_odds[1]) / error
    shares = held / sizes

    def side(sign: int, own: int) -> list[OneSided]:
        best = islice(np.argsort(-sign * weights, kind="stable"), most)
        return [
            OneSided(words[at], float(sign * weights[at]), float(shares[own][at]), float(shares[1 - own][at]))
            for at in best
            if sign * weights[at] > 2  # less is within what chance does to a single word
        ]

    return side(1, 0), side(-1, 1)
