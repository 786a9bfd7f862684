"""A file that is one JSON array, element by element: each a row with its own line and offset, a part in memory."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from attune.data.reading.line import BadRow, RawRow, not_utf8, parse_line, too_large
from attune.errors import DataError
from attune.types import Place

_BLANKS = " \t\r\n"
_BLANK = re.compile(f"[{_BLANKS}]*")


def read_array(path: Path, file: BinaryIO, skipped: int, limit: int) -> Iterator[RawRow | BadRow]:
    """Yield the rows of a JSON array whose bracket comes next in `file`, after `skipped` bytes.

    Raises: DataError with the place where the file is no JSON array.
    """
    window = _Window(path, file, skipped, limit)
    window.skip_blank()
    window.skip(1)  # the bracket
    rows = 0
    while window.skip_blank() != "]":
        place = Place(str(path), window.line, window.offset)
        raw = window.take_element()
        yield too_large(place, len(raw), limit) if len(raw) > limit else parse_line(place, raw + b"\n")
        rows += 1
        following = window.skip_blank()
        if following not in (",", "]"):
            found = f'found "{window.ahead(12)}"' if following else "the file ends; it looks cut off"
            raise DataError(f"{path}:{window.line} after row {rows} of the JSON array: expected a comma or ], {found}.")
        if following == ",":
            window.skip(1)
    if not rows:
        raise DataError(f"{path} is an empty JSON array: 0 rows.")
    window.skip(1)
    if window.skip_blank():
        found = f'found "{window.ahead(12)}"'
        raise DataError(f"{path}:{window.line} after the JSON array: expected the end of the file, {found}.")


class _Window:
    """The part of a text file that is being looked at; it moves on and knows the line and byte where it stands."""

    BLOCK = 1 << 20  # bytes read at once; twice as many each time while one element does not end
    SLACK = 16  # a fault so near the window's end may be a value that goes on behind it
    MOST_ROWS = 8  # rows of the greatest length that an element may take before it is given up

    def __init__(self, path: Path, file: BinaryIO, offset: int, limit: int) -> None:
        self._path, self._file = path, file
        self._most = max(self.MOST_ROWS * limit, self.BLOCK)
        self.line, self.offset = 1, offset
        self._text, self._at = "", 0
        self._dropped = (0, 0)  # characters and bytes of the line that stand before the window's text
        self._size = self.BLOCK
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._scan = json.JSONDecoder().raw_decode

    def skip_blank(self) -> str:
        """Move on to the next character that is not blank and return it; "" at the end of the file."""
        while True:
            following = self._text[self._at : self._at + 1]
            if following and following not in _BLANKS:
                return following
            match = _BLANK.match(self._text, self._at)
            if match and match.end() > self._at:
                self.skip(match.end() - self._at)
            elif not self._grow():
                return ""

    def ahead(self, count: int) -> str:
        """Return the next characters without moving on."""
        return self._text[self._at : self._at + count]

    def skip(self, count: int) -> None:
        """Move on by some characters that are ASCII."""
        self.line += self._text.count("\n", self._at, self._at + count)
        self.offset += count
        self._at += count

    def take_element(self) -> bytes:
        """Move on over one JSON value and return it as it is written. Raises: DataError where there is none."""
        while True:
            try:
                _, end = self._scan(self._text, self._at)
            except json.JSONDecodeError as error:
                may_go_on = error.msg.startswith("Unterminated string") or error.pos + self.SLACK >= len(self._text)
                if may_go_on and self._grow():
                    continue
                raise DataError(self._fault(error)) from error
            except RecursionError as error:
                raise DataError(f"{self._path}:{self.line} nested too deep.") from error
            if end < len(self._text) or not self._grow():  # a number may go on
                break
        raw = self._text[self._at : end].encode()
        self._at, self._size = end, self.BLOCK
        self.line += raw.count(b"\n")
        self.offset += len(raw)
        return raw

    def _fault(self, error: json.JSONDecodeError) -> str:
        line = self.line + self._text.count("\n", self._at, error.pos)
        begin = self._text.rfind("\n", 0, error.pos) + 1
        what = error.msg[0].lower() + error.msg[1:].removesuffix(" at")
        column = error.pos - begin + 1 + (0 if begin else self._dropped[0])
        return (
            f"{self._path}:{line}:{column} {what}; "
            "the file is read as one JSON array.\nMend it there, or write one row per line (JSONL)."
        )

    def _grow(self) -> bool:
        """Read on, forgetting what has been taken; False at the end of the file."""
        if len(self._text) - self._at > self._most:
            size = f"{self._most / 2**20:g} MiB"
            raise DataError(f"{self._path}:{self.line} has an element that does not end within {size}.")
        block = self._file.read(self._size)
        self._size *= 2
        try:
            more = self._decoder.decode(block, final=not block)
        except UnicodeDecodeError as fault:
            raise DataError(self._not_utf8(fault)) from fault
        if not block:
            return False
        begin = self._text.rfind("\n", 0, self._at) + 1
        characters, num_bytes = (0, 0) if begin else self._dropped
        passed = self._text[begin : self._at]
        self._dropped = (characters + len(passed), num_bytes + len(passed.encode()))
        self._text = self._text[self._at :] + more
        self._at = 0
        return True

    def _not_utf8(self, fault: UnicodeDecodeError) -> str:
        """Return where a byte is no UTF-8: `fault` knows its position in the block that was being decoded."""
        begin = self._text.rfind("\n") + 1
        before = self._text[begin:].encode() + fault.object[: fault.start]
        line = self.line + self._text.count("\n", self._at) + before.count(b"\n")
        dropped = 0 if begin or b"\n" in before else self._dropped[1]
        before = before[before.rfind(b"\n") + 1 :]
        words = not_utf8(before + fault.object[fault.start : fault.start + 1], len(before), dropped=dropped)
        return f"{self._path}:{line} {words}"
