"""Broken characters and their repair."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attune.data.lint.characters import find_broken, mend

WORDS = (
    "It\u2019s",
    "caf\u00e9",
    "na\u00efve",
    "Z\u00fcrich",
    "L\u00fcbeck",
    "\u00a35",
    "d\u00e9j\u00e0 vu",
    "10 \u20ac",
    "100 \u00b0C",
    "se\u00f1or",
    "a \u2013 b",
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440",
    "\u65e5\u672c\u8a9e",
    "\U0001f600 hi",
)
SOUND = (
    "MA\u00c7\u00c3\u201d",
    "le caf\u00e9\u2026\u201d",
    "CAF\u00c9\u201d",
    "S\u00e3o Paulo, a\u00e7\u00e3o, n\u00e3o",
    "\u00abA la carte\u00bb",
    "\u00c4rzte, \u00c2ge, \u00cele-de-France \u00ae",
    "H\u00e0 N\u1ed9i",
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian, with a non-joiner
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u0915\u094d\u200d\u0937",  # Hindi, with a joiner
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 family",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u200b\u0e04\u0e23\u0e31\u0e1a",  # Thai, with a place to break the line
    "\u65e5\u672c\u8a9e\u30c6\u30ad\u30b9\u30c8",
    "tab\there\r\nand there",
    "\u00bd \u2122 \u2026",
)
REMOVED = (
    ("a\x00b", "ab"),
    ("So\x08rry", "Sorry"),
    ("one\x0bmore", "one\nmore"),
    ("\x1b[31mred\x1b[0m", "red"),
    ("hel\u200blo", "hello"),
    ("\ufeffhello", "hello"),
    ("zero\u200dwidth", "zerowidth"),
    ("it\x92s", "it\u2019s"),
    ("\u00c3\u0192\u00c2\u00a9", "\u00e9"),  # read wrongly twice
    ("it\u201a\u00c4\u00f4s", "it\u2019s"),  # read as Mac Roman
)


def broken(text: str) -> str | None:
    """What is found in a text."""
    return find_broken(text, text.encode())


def misread(text: str) -> str:
    """UTF-8 read as Windows-1252, or as Latin-1 where that has no such character."""
    return "".join(bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in text.encode())


@pytest.mark.parametrize("word", WORDS)
def test_misread_text_is_found_and_decoded(word: str) -> None:
    """Mojibake of Western, Cyrillic and East Asian text and of emoji comes back as it was written."""
    for wrong in (f"so {misread(word)} it is", f"so {word.encode().decode('latin-1')} it is"):
        assert broken(wrong)
        assert mend(wrong) == f"so {word} it is"
        assert broken(mend(wrong)) is None


@pytest.mark.parametrize(("wrong", "right"), REMOVED)
def test_control_and_invisible_characters_are_found_and_removed(wrong: str, right: str) -> None:
    """NUL, controls, escape sequences, lone zero-width characters, half-converted Windows-1252."""
    assert broken(wrong)
    assert mend(wrong) == right
    assert broken(right) is None


@pytest.mark.parametrize("text", SOUND)
def test_sound_text_is_let_be(text: str) -> None:
    """Accents before quotes, joiners in Persian, Hindi and emoji, line breaks in Thai."""
    assert broken(text) is None
    assert mend(text) == text


def test_replacement_character_is_found_and_stays() -> None:
    """What stood there is lost: nothing is guessed."""
    assert "U+FFFD" in str(broken("caf\ufffd"))
    assert mend("caf\ufffd") == "caf\ufffd"


@given(st.text(max_size=60))
def test_mending_twice_changes_nothing(text: str) -> None:
    """A mended text has nothing left that can be mended."""
    assert mend(mend(text)) == mend(text)
    left = broken(mend(text))
    assert left is None or "U+FFFD" in left


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
def test_plain_ascii_is_sound(text: str) -> None:
    """Printable ASCII is never touched."""
    assert broken(text) is None
    assert mend(text) == text
