"""Small rows for the tests of duplicates: made by hand, taken in as the check does."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from attune.data.duplicates.words import WordStore
from attune.data.lint.view import view
from attune.types import Example, Message, Place


def chat(question: str, answer: str, *, system: str = "") -> Example:
    """One question and its answer."""
    before = (Message("system", system),) if system else ()
    return Example(Place("f", 0, 0), messages=(*before, Message("user", question), Message("assistant", answer)))


def text(content: str) -> Example:
    """Plain text."""
    return Example(Place("f", 0, 0), text=content)


def store_of(examples: Iterable[Example]) -> WordStore:
    """The rows, numbered from 0."""
    store = WordStore()
    for number, example in enumerate(examples):
        store.take(view(number, example))
    return store


def place_of(row: int) -> Place:
    """Row 0 stands in line 1."""
    return Place("f", row + 1, 0)


def prose(rng: random.Random, words: int) -> str:
    """Words that hardly ever come twice."""
    return " ".join(f"{rng.choice(STEMS)}{rng.choice(STEMS)}{rng.choice(STEMS)}" for _ in range(words))


def changed(content: str, places: Sequence[int]) -> str:
    """The text with other words at some places."""
    words = content.split()
    for place in places:
        words[place] = f"other{'abcdefgh'[place % 8]}"
    return " ".join(words)


STEMS = ("ba", "de", "fi", "go", "lu", "ma", "ne", "pi", "ro", "su", "ta", "ve", "zi", "ko", "du")
