"""Openers, variety and compression of answers: known answers on small sets, and equal budgets on both sides."""

from __future__ import annotations

import random

import pytest

from attune.evals.wording import commonest_opener, compare_wording

WORDS = [f"w{number}" for number in range(400)]


def spell(texts: list[str]) -> tuple[list[list[int]], list[str]]:
    """Return texts as (tokens, texts), a token a word."""
    known: dict[str, int] = {}
    return [[known.setdefault(word, len(known)) for word in text.split()] for text in texts], texts


def test_the_commonest_opener_is_counted_over_all_answers() -> None:
    """Three tokens make an opener; shorter answers have shorter ones, and an empty answer counts as empty."""
    assert commonest_opener([[1, 2, 3, 4], [1, 2, 3], [1, 2], [], [7]]) == ((1, 2, 3), 2 / 5)
    assert commonest_opener([[], [], [5]]) == ((), 2 / 3)


def test_answers_that_begin_alike_and_repeat_stand_out() -> None:
    """Collapsed answers have fewer different pairs and compress better than their references."""
    draw = random.Random(0)
    references = [" ".join(draw.choices(WORDS, k=20)) for _ in range(32)]
    answers = [f"sure i can {' '.join(draw.choices(WORDS[:3], k=17))}" for _ in range(32)]
    own, reference = compare_wording(spell(answers), spell(references))
    assert own.distinct_2 is not None and reference.distinct_2 is not None
    assert own.distinct_2 < 0.3 * reference.distinct_2
    assert own.compression is not None and reference.compression is not None
    assert own.compression > 1.5 * reference.compression
    assert own.tokens == reference.tokens == 20


def test_short_answers_are_not_taken_for_varied_ones() -> None:
    """Shorter texts of the same kind repeat less; on equal budgets both sides are alike."""
    draw = random.Random(1)
    short, long = ([" ".join(draw.choices(WORDS[:20], k=length)) for _ in range(32)] for length in (5, 80))
    own, reference = compare_wording(spell(short), spell(long))
    assert own.distinct_2 is not None and reference.distinct_2 is not None
    assert own.distinct_2 == pytest.approx(reference.distinct_2, rel=0.25)
    assert own.compression is not None and reference.compression is not None
    assert own.compression == pytest.approx(reference.compression, rel=0.25)


def test_nothing_to_measure_is_said_so() -> None:
    """Empty answers have no pairs and no bytes; characters cut in the middle do no harm."""
    own, reference = compare_wording(([[]], [""]), ([[1, 2]], ["a b"]))
    assert (own.distinct_2, own.compression, reference.distinct_2) == (None, None, None)
    assert own.tokens == 0
    own, _ = compare_wording(([[1]], ["\u00e9\u00e9\u00e9"]), ([[1]], ["abcde"]))
    assert own.compression is not None
