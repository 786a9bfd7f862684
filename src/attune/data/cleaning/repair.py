"""One row's bytes with its characters mended, everything else in them as it was; None where nothing is mended."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable

from attune.data.reading.line import RawRow, parse_line
from attune.types import Place

Mend = Callable[[str], str]  # a text with what is certainly wrong in it mended

MOST_TIMES = 4  # a text encoded wrongly twice is mended twice
_LITERAL = re.compile(r'("[^"\\]*(?:\\.[^"\\]*)*")(\s*:)?', re.DOTALL)  # a text of JSON; with a colon it is a key
_CONTROL = re.compile(r"[\x00-\x1f]")
_NOWHERE = Place("", 0, 0)


def repair_json(data: bytes, mend: Mend) -> bytes | None:
    """Return a row of JSON with the texts in it mended: only those literals are written anew, keys stay.

    A byte order mark or NUL before the row is taken out, and a control character that stands in a text as it is, which
    JSON forbids, is mended or escaped.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    bare = text.lstrip("\ufeff\0")
    try:
        mended = _LITERAL.sub(lambda hit: _literal(hit, mend), bare).encode("utf-8")
    except (ValueError, RecursionError):
        return None  # half a character, or no JSON after all
    if mended == data or not isinstance(parse_line(_NOWHERE, mended), RawRow):
        return None
    return mended


def _literal(hit: re.Match[str], mend: Mend) -> str:
    """Return a JSON literal mended; escapes stay in fashion where the literal had no other way of writing."""
    written, is_key = hit[1], hit[2]
    if is_key:
        return hit[0]
    text = json.loads(written, strict=False)
    mended = mend_all(text, mend)
    if mended == text and not _CONTROL.search(written):
        return hit[0]
    return json.dumps(mended, ensure_ascii=written.isascii())


def repair_csv(data: bytes, mend: Mend, *, delimiter: str) -> bytes | None:
    """Return a record of CSV with its cells mended; its quotes may be set anew."""
    try:
        text = data.decode("utf-8")
        cells = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), [])
    except (UnicodeDecodeError, csv.Error):
        return None
    mended = [mend_all(cell, mend) for cell in cells]
    if mended == cells:
        return None
    end = "\r\n" if text.endswith("\r\n") else "\n" * text.endswith("\n")
    written = io.StringIO(newline="")
    # the writer quotes cells that hold a character of its line end, so it must be given both
    csv.writer(written, delimiter=delimiter, lineterminator="\r\n").writerow(mended)
    return (written.getvalue().removesuffix("\r\n") + end).encode("utf-8")


def mend_all(text: str, mend: Mend) -> str:
    """Return a text mended until mending changes nothing more."""
    for _ in range(MOST_TIMES):
        mended = mend(text)
        if mended == text:
            break
        text = mended
    return text
