"""What rewording may not touch: quoted words, code and JSON, and requests whose answer hangs on the very words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from attune.data.coverage.tongues import NAMES, are_alike, guess, has_signs
from attune.data.lint.fences import prose_of

_QUOTED = re.compile(
    r"""
    "[^"\n]*" | \u201c[^\u201d]*\u201d | \u00ab[^\u00bb]*\u00bb | \u300c[^\u300d]*\u300d
    | (?<!\w)'[^'\n]+'(?!\w) | \u2018[^\u2019\n]+\u2019(?!\w)
    | (?:https?://|www\.)\S+ | <[^<>\n]+> | ^[ \t]*>.*$
    """,
    re.VERBOSE | re.MULTILINE,
)
_BLANKED = re.compile(r"\0[\0\s]*")  # code, and the white space in it and after it
_OPENS, _CLOSES = "{[", "}]"
# the answer depends on how the words are written
_ON_WORDING = re.compile(
    r"\b(?:(?:how many|number of|first|last|each|every|longest|shortest) (?:words?|letters?|characters?|vowels?"
    r"|consonants?|syllables?|sentences?|lines?)|count(?:s|ing)?|spell(?:s|ed|ing)?|punctuat\w*|capitali[sz]\w*"
    r"|capital letters?|(?:upper|lower)[ -]?case\w*|white ?space|typos?|grammar\w*|grammatical\w*|proofread\w*"
    r"|verbatim|exactly as|echo|repeat\w*|quot(?:e|es|ation)|palindromes?|anagrams?|contractions?|revers(?:e|ed|ing)"
    r"|copy|style|formal\w*|informal\w*|tone|polite\w*|rude\w*|toxic\w*)\b",
    re.IGNORECASE,
)
_ON_ITSELF = re.compile(
    r"\b(?:this|my|above|previous) (?:question|prompt|message|request|instruction|sentence|text)\b", re.IGNORECASE
)
# a text is made of a text: every word of the first one counts
_MAKES_TEXT = (
    r"translat\w*|rewrit\w*|rephras\w*|paraphras\w*|reword\w*|correct\w*|edit\w*|improve\w*|simplif\w*|shorten\w*"
    r"|expand\w*|complet\w*|continu\w*|transcrib\w*|transliterat\w*|convert\w*|normali[sz]\w*"
)
_ON_TEXT = re.compile(rf"\b(?:{_MAKES_TEXT})\b", re.IGNORECASE)
# in an instruction that stands before a user turn: that turn is material, no request to be framed
_ON_MATERIAL = re.compile(
    rf"\b(?:{_MAKES_TEXT}|summar\w*|sentiment\w*|emotion\w*|extract\w*|tag(?:s|ged|ging)?|parse\w*)\b", re.IGNORECASE
)
_LANGUAGES = tuple(name.lower() for name in NAMES.values())
NEAR = 8  # characters on both sides of a change that an answer may not repeat


def may_be_framed(text: str, instructions: Sequence[str], answer: str) -> bool:
    """Return whether words may be put around a request, as far as its instructions and its answer tell.

    Not where it speaks of itself, nor where it is a text to be worked on: where an instruction before it says so, where
    a question is answered by a question, and where the answer is in another language that nobody asked for.
    """
    if _ON_ITSELF.search(text) or any(_ON_WORDING.search(one) or _ON_MATERIAL.search(one) for one in instructions):
        return False
    if text.rstrip().endswith("?") and answer.rstrip().endswith("?"):
        return False
    answered, lowered = guess(answer), text.lower()
    speaks_of_language = _ON_TEXT.search(text) or any(name in lowered for name in _LANGUAGES)
    return not answered or are_alike(guess(text) or "en", answered) or bool(speaks_of_language)


def may_be_edited(texts: Sequence[str]) -> bool:
    """Return whether the words of a request may be changed a little, as its own text and its instructions tell."""
    return not any(rule.search(text) for text in texts for rule in (_ON_WORDING, _ON_ITSELF, _ON_TEXT))


def is_english(text: str) -> bool:
    """Return whether a text is in English by its little words."""
    return has_signs(text, "en") and guess(text) in ("", "en")


def kept_spans(text: str) -> list[tuple[int, int]]:
    """Return the spans of a text in which nothing may change: code, quoted words, JSON, links and tags.

    What is opened and never closed reaches to the end of the text.
    """
    spans: list[tuple[int, int]] = []
    prose = prose_of(text)
    if prose != text:
        blanked = "".join("\0" if old != new else old for old, new in zip(text, prose, strict=True))
        spans += [found.span() for found in _BLANKED.finditer(blanked)]
    spans += [found.span() for found in _QUOTED.finditer(text)]
    if text.count('"') % 2:
        spans.append((text.index('"'), len(text)))
    opened = min((at for at in map(text.find, _OPENS) if at >= 0), default=-1)
    if opened >= 0:
        closed = max(map(text.rfind, _CLOSES)) + 1
        spans.append((opened, closed if closed > opened else len(text)))
    return spans


def changed_span(old: str, new: str) -> tuple[int, int]:
    """Return the shortest stretch of `old` that was replaced to make `new`; empty where something was put in."""
    first = _common(old, new)
    last = len(old) - _common(old[first:][::-1], new[first:][::-1])
    return first, last


def _common(one: str, other: str) -> int:
    """Return how many characters two texts begin with in common."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low


def may_change(old: str, new: str, kept: Sequence[tuple[int, int]], answers: Sequence[str]) -> bool:
    """Return whether a change leaves the kept spans alone and no answer repeats the words in which it was made."""
    first, last = changed_span(old, new)
    if any(start < last and first < end for start, end in kept):
        return False
    if first == 0 == last:  # words before the text
        return True
    around = old[max(0, first - NEAR) : last + NEAR].strip()
    return not any(around in answer for answer in answers)
