"""R05: characters that a wrong encoding left behind, and the repair of those that are certain."""

from __future__ import annotations

import re

from attune.data.lint.quote import quote

CONTROLS = bytes([*range(9), 11, 12, *range(14, 32), 127])  # all but tab, line feed and carriage return
# what bytes 0x80 to 0xBF of UTF-8 become when they are read as Windows-1252 (or as Latin-1)
_CP1252 = "".join(bytes([byte]).decode("cp1252", "ignore") for byte in range(0x80, 0xC0))
_REST = re.escape("".join(sorted({*_CP1252, *map(chr, range(0x80, 0xC0))})))
_CURLY = "\u2018\u2019\u201c\u201d\u2026\u2013\u2014\u00bb\u00ab"  # ordinary after an accented letter
# signs that stand behind no word in capitals
_PLAIN = "\u00a1-\u00a7\u00b1-\u00b9\u00bc-\u00bf\u0152-\u0192\u201a\u201e\u2020-\u2022\u2030\u20ac"
# UTF-8 read as Windows-1252. A pair after A with circumflex or tilde, a triple after a with circumflex and a quadruple
# after eth are hardly ever meant, but for a quote or a trade mark behind a word in capitals; other letters only where
# several stand in a row, as in a Russian or Chinese word.
_MOJIBAKE = re.compile(
    rf"(?:(?<![A-Z\u00c0-\u00de])[\u00c2\u00c3][{_REST}]|[\u00c2\u00c3](?:[{_PLAIN}]|[{_REST}](?=[a-z]))"
    rf"|\u00e2[{_REST}]{{2}}"
    rf"|\u00f0[{_REST}]{{3}}"
    rf"|\u201a\u00c4[^\x00-\x7f]"  # a curly quote or dash read as Mac Roman
    rf"|\u00ef\u00bb\u00bf|\u00ef\u00bf\u00bd"
    rf"|(?:[\u00c4-\u00df](?![{_CURLY}])[{_REST}]){{3,}}"
    rf"|(?:[\u00e0-\u00ef][{_REST}]{{2}}){{2,}})+"
)
_LEAD = re.compile(f"[\u00c2-\u00f0][{_REST}]|\u201a\u00c4")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x84\x86-\x9f]")
_ANSI = re.compile("\x1b\\[[0-9;?]*[A-Za-z]")
_HIDDEN = re.compile("[\u200b\u2060\ufeff\U000e0001-\U000e007f]|[\u200c\u200d](?=[\\x00-\u02ff]|\\Z)")
_HIDDEN_RAW = (b"\xe2\x80\x8b", b"\xe2\x80\x8c", b"\xe2\x80\x8d", b"\xe2\x81\xa0", b"\xef\xbb\xbf", b"\xf3\xa0")
_JOINING = re.compile("[\u0590-\u1cff\u2190-\u2bff\ua800-\uabff\ufb1d-\ufefc\U0001f000-\U0001faff\ufe0f]")
_BREAKING = re.compile("[\u0e00-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
REPLACEMENT = "\ufffd"


def has_controls(raw: bytes) -> bool:
    """Return whether a text, given as UTF-8, holds control characters of ASCII."""
    return len(raw.translate(None, CONTROLS)) != len(raw)


def find_broken(text: str, raw: bytes) -> str | None:
    """Return the first broken character of a text with the words around it; None if all are sound.

    `raw` is the text as UTF-8, in which a cheap first look is taken.
    """
    if has_controls(raw) or b"\xc2" in raw:
        control = _CONTROL.search(text)
        if control:
            name = "NUL" if control[0] == "\0" else f"U+{ord(control[0]):04X}"
            return f"{name} in {_visible(text, control.start(), control.end())}"
    if raw.isascii():
        return None
    at = text.find(REPLACEMENT)
    if at >= 0:
        return f"U+FFFD in {_visible(text, at, at + 1)}"
    if (b"\xc3" in raw or b"\xe2\x80\x9a" in raw) and _LEAD.search(text):
        for found in _MOJIBAKE.finditer(text):
            if _decoded(found[0]) is not None:
                return f"not decoded: {_visible(text, *found.span())}"
    if any(sign in raw for sign in _HIDDEN_RAW):
        for found in _HIDDEN.finditer(text):
            if _is_lone(text, found):
                return f"invisible U+{ord(found[0]):04X} in {_visible(text, *found.span())}"
    return None


def mend(text: str) -> str:
    """Return a text without what is certainly broken: mojibake decoded, control and lone invisible characters gone.

    U+FFFD stays: what stood there is lost. A text that is sound comes back as it is, and so does a mended one.
    """
    while True:  # each pass makes it shorter, or has fewer control characters: text may have been misread twice
        better = _mend_once(text)
        if better == text:
            return text
        text = better


def _mend_once(text: str) -> str:
    if not text.isascii():
        text = _MOJIBAKE.sub(lambda found: _decoded(found[0]) or found[0], text)
        text = _HIDDEN.sub(lambda found: "" if _is_lone(text, found) else found[0], text)
    return _CONTROL.sub(_without_control, _ANSI.sub("", text))


def _without_control(found: re.Match[str]) -> str:
    """Return what a control character was meant to be: a line break, a sign of Windows-1252, or nothing."""
    code = ord(found[0])
    if code in (0x0B, 0x0C):
        return "\n"
    return bytes([code]).decode("cp1252", "ignore") if code >= 0x80 else ""


def _decoded(wrong: str) -> str | None:
    """Return the text that was read in the wrong encoding; None if it was not."""
    try:
        if wrong[0] == "\u201a":
            return wrong.encode("mac_roman").decode()
        return b"".join(map(_byte, wrong)).decode()
    except (UnicodeDecodeError, UnicodeEncodeError):
        return None


def _byte(character: str) -> bytes:
    """Return the byte that was read as this character: Windows-1252, or Latin-1 where that has none."""
    return character.encode("latin-1" if ord(character) < 0x100 else "cp1252")


def _is_lone(text: str, found: re.Match[str]) -> bool:
    """Return whether an invisible character has no work where it stands.

    It joins or parts letters in Persian, Indic and other scripts, joins emoji, and breaks lines in Thai, Khmer and
    East Asian text.
    """
    around = text[max(0, found.start() - 2) : found.start()] + text[found.end() : found.end() + 2]
    if found[0] in "\u200c\u200d":
        return not _JOINING.search(around)
    if found[0] >= "\U000e0001":
        return "\U0001f3f4" not in text[max(0, found.start() - 8) : found.start()]  # flags of regions
    return found[0] == "\ufeff" or not _BREAKING.search(around)


def _visible(text: str, start: int, end: int) -> str:
    """Return the words around a place, with a sign for every character that cannot be seen."""
    words = quote(text, start, end)
    return "".join(character if character.isprintable() else "\u25a1" for character in words)
