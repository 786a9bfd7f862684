"""Text to numbered words, for a whole chunk of rows at once: one array of characters, no Python object for a word."""

from __future__ import annotations

import functools
import unicodedata
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

LETTER, DIGIT, SINGLE, SIGN = 1, 2, 4, 8  # bits; a character that is none of them parts words
SIGNS = "*/%^&#"  # besides the symbols of mathematics and money, what tells formulas and code apart: each is a word
MARKS = "\x02\x03"  # what stands between rows and parts of rows
# scripts that put no space between words: each of their characters is a word
UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x31FF),  # Hiragana, Katakana, Bopomofo
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),  # Han
    (0xF900, 0xFAFF),
)
PLANES = 0x20000  # from here on there are rare ideographs; they share the numbers of one more plane
BASE = 0x9E3779B97F4A7C15  # odd, so that its powers can be undone modulo 2**64
SIZES_PER_DOUBLE = 3  # stretches sorted together differ in length by a quarter at most
KeyT = TypeVar("KeyT", np.uint64, np.int64)


def split_codes(text: str, bounds: NDArray[np.int64]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Return the words of a text as numbers, and how many begin in each stretch between two `bounds`.

    Equal words have equal numbers; words differ in 31 bits, and the lowest bit is set where a word holds a digit or is
    a sign. A word is a run of letters and digits, a sign or a character of a script without spaces.
    Its number is a polynomial in BASE over its characters, modulo 2**64, taken for all words in one sum.
    """
    codes: NDArray[np.uint8] | NDArray[np.uint32]
    if text.isascii():
        codes = np.frombuffer(text.encode("ascii"), np.uint8)
        kinds, values = _alphabet(128)
    else:
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        if codes.max() >= PLANES:
            codes = np.where(codes < PLANES, codes, PLANES + (codes & np.uint32(0xFFFF)))
        kinds, values = _alphabet(PLANES + 0x10000)
    kind, value = kinds[codes], values[codes]
    minus = np.flatnonzero(codes[1:-1] == ord("-")) + 1
    hyphen = minus[(kind[minus - 1] == LETTER) & (kind[minus + 1] == LETTER)]
    kind[hyphen], value[hyphen] = 0, 0  # top-up is top up, but 7-5 is not 7 5
    begins = kind >= SINGLE
    begins[0] |= kind[0] != 0
    # a letter or digit begins a word where none stands before it
    begins[1:] |= (kind[1:] != 0) & ((kind[:-1] == 0) | (kind[:-1] >= SINGLE))
    first = np.flatnonzero(begins)
    counts = np.diff(np.searchsorted(first, bounds))
    if not len(first):
        return np.zeros(0, np.uint32), counts
    powers, inverses = _powers(1 << max(10, (len(codes) - 1).bit_length()))
    sums = np.add.reduceat(value * powers[: len(codes)], first) * inverses[first]
    has_digit = (np.bitwise_or.reduceat(kind, first) & (DIGIT | SIGN)) != 0
    numbers: NDArray[np.uint32] = np.bitwise_and(mix(sums), np.uint32(0xFFFFFFFE), dtype=np.uint32)
    numbers += has_digit
    return numbers, counts


def sort_once(keys: NDArray[KeyT]) -> NDArray[KeyT]:
    """Return keys in ascending order, each once. Ten times faster than numpy's `unique` (2.3 and later)."""
    ordered = np.sort(keys)
    is_new = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=is_new[1:])
    return ordered[is_new]


def sort_within(values: NDArray[np.uint32], bounds: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Return values in ascending order between each two bounds.

    Stretches of about one length are the rows of a matrix: many short sorts side by side take a third of the time of
    one long sort.
    """
    lengths = np.diff(bounds)
    ordered = np.empty_like(values)
    size = np.ceil(SIZES_PER_DOUBLE * np.log2(np.maximum(lengths, 4))).astype(np.uint16)
    order = np.argsort(size, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(size[order])) + 1):
        columns = np.arange(lengths[rows].max(initial=0))
        inside = columns < lengths[rows, None]
        at = (bounds[rows, None] + columns)[inside]
        block = np.full(inside.shape, np.iinfo(np.uint32).max, np.uint32)
        block[inside] = values[at]
        block.sort(axis=1)
        ordered[at] = block[inside]
    return ordered


def mix(numbers: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """Return 32 bits, each of which depends on all 64 of a number. Source: the finalizer of SplitMix64."""
    mixed = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    upper: NDArray[np.uint32] = (mixed >> np.uint64(32)).astype(np.uint32)
    return upper


@functools.cache
def _alphabet(size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint64]]:
    """Return each character's kind, uint8 [size], and random value (0 where it parts words), uint64 [size]."""
    kinds = np.full(size, SINGLE, np.uint8)
    known = min(size, PLANES)
    kinds[:known] = np.fromiter((_kind(chr(code)) for code in range(known)), np.uint8, known)
    for low, high in UNSPACED:
        is_letter = (kinds[low : high + 1] & LETTER) != 0
        kinds[low : high + 1][is_letter] = SINGLE
    for marks, kind in ((SIGNS, SIGN), ("-" + MARKS, SINGLE)):
        for mark in marks:
            kinds[ord(mark)] = kind
    # the first numbers of a seeded generator, so that a character's value does not depend on `size`
    values = np.random.Generator(np.random.PCG64(7)).integers(1, 2**64, size=size, dtype=np.uint64)
    fold = np.arange(128)
    fold[ord("A") : ord("Z") + 1] += 32
    values[:128] = values[fold]
    values[kinds == 0] = 0
    return kinds, values


def _kind(character: str) -> int:
    category = unicodedata.category(character)
    if category in {"Sm", "Sc"}:
        return SIGN
    if category == "So":  # an emoji can be all that an answer says
        return SINGLE
    if character.isdecimal():
        return DIGIT
    return LETTER if character.isalnum() or category[0] == "M" else 0


@functools.lru_cache(maxsize=4)
def _powers(size: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return BASE to the power of 0, 1, 2, ... and their inverses modulo 2**64, uint64 [size] each."""
    return _progression(BASE, size), _progression(pow(BASE, -1, 2**64), size)


def _progression(factor: int, size: int) -> NDArray[np.uint64]:
    numbers = np.full(size, factor, np.uint64)
    numbers[0] = 1
    return np.multiply.accumulate(numbers)
