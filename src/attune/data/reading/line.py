"""One line of JSON as a row, or what is wrong with it, in words and with its column."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from attune.types import Place


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used: `kind` groups equal faults, `text` says what is wrong with this one."""

    place: Place
    kind: str
    text: str
    column: int = 0  # from 1; 0 where the fault has no column
    rule: str = "bad-row"  # the lint rule that it breaks: "role-order" and "broken-structure" are in the catalog

    @property
    def where(self) -> str:
        """The place with its column, as a message names it."""
        return f"{self.place}:{self.column}" if self.column else str(self.place)


class RawRow(NamedTuple):
    """A row as it was written, with what the reader noticed about it: its bytes and notes such as "nul"."""

    place: Place
    value: Mapping[str, Any]
    raw: bytes
    notes: tuple[str, ...] = ()


def too_large(place: Place, size: int, limit: int) -> BadRow:
    """Return a row of `size` bytes as a bad one."""
    text = f"is {size / 1e6:.1f} MB; rows over {limit / 2**20:g} MiB are refused (data.max_row_bytes)"
    return BadRow(place, "row too large", text)


def parse_line(place: Place, raw: bytes) -> RawRow | BadRow:
    """Return one line of JSON as a row, or as a BadRow that says what is wrong with it."""
    notes: tuple[str, ...] = ()
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        try:
            value, notes = _parse_slowly(raw)
        except (ValueError, RecursionError):
            return _line_fault(place, raw, error)
        if _has_lone_surrogate(value):
            return BadRow(
                place, "lone surrogate", f"{_first_surrogate(raw)} is half a character and cannot be tokenised"
            )
    if b"\\" in raw and b"\\u0000" in raw:  # one character is looked for much faster than six
        notes = (*notes, "nul")
    return _as_row(place, value, raw, notes)


def _as_row(place: Place, value: Any, raw: bytes, notes: tuple[str, ...]) -> RawRow | BadRow:
    """Return a parsed value as a row, or as a BadRow when it is no object."""
    if type(value) is dict:
        return RawRow(place, value, raw, notes)
    text = f'is {json_kind(value)}; each row must be an object like {{"messages": [...]}}'
    return BadRow(place, "not an object", text)


def json_kind(value: Any) -> str:
    """Return the JSON type of a value in words, with its article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    return f"a value of type {type(value).__name__}"  # Parquet has more types than JSON


def _parse_slowly(raw: bytes) -> tuple[Any, tuple[str, ...]]:
    """Parse with the standard library, which takes NaN, huge numbers and half characters that orjson refuses."""
    odd: list[str] = []

    def constant(text: str) -> None:
        odd.append(text)

    def number(text: str) -> float | None:
        value = float(text)
        if math.isfinite(value):
            return value
        odd.append(text)
        return None

    value = json.loads(raw.decode("utf-8"), parse_constant=constant, parse_float=number)
    return value, (("not-json-number",) if odd else ())


def _has_lone_surrogate(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _first_surrogate(raw: bytes) -> str:
    """Return the first escape of half a character as it is written in the line."""
    pairs = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})")
    return next((f'"{hit[1].decode()}"' for hit in pairs.finditer(raw) if hit[1]), "a surrogate")


def _line_fault(place: Place, raw: bytes, error: orjson.JSONDecodeError) -> BadRow:
    """Return what is wrong with a line that is no JSON, with its column."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as fault:
        return BadRow(place, "not UTF-8", not_utf8(raw, fault.start))
    if "depth limit" in error.msg:
        return BadRow(place, "nested too deep", "nested deeper than 1024")
    if not raw.endswith(b"\n") and _is_cut(text):
        inside = "inside a string" if _ends_in_string(text) else "before its JSON does"
        cut = f"line ends {inside}; the file looks cut off (no final newline). Copy it again"
        return BadRow(place, "line cut off", cut, len(text))
    rest = text.rstrip()[error.pos :].strip()
    if not rest:
        return BadRow(place, "bad JSON", "the line ends before its JSON does", error.colno)
    return BadRow(place, "bad JSON", f'{_wanted(error)}, found "{_first_word(rest)}"', error.colno)


def not_utf8(raw: bytes, at: int, *, dropped: int = 0) -> str:
    """Return what is wrong with bytes that are no UTF-8 at position `at`; `dropped` bytes of the line are not given."""
    where = f"byte 0x{raw[at]:02X} at column {at + 1 + dropped}"
    return f"{where} is not UTF-8 (looks like Latin-1). Convert: iconv -f latin1 -t utf-8"


def _first_word(text: str) -> str:
    """Return the first word or sign of a text, cut short."""
    return str(re.findall(r"\w+|\W", text)[0])[:20]


def _ends_in_string(text: str) -> bool:
    """Return whether a beginning of JSON ends within a string: an odd number of quotes that are not escaped."""
    return len(re.findall(r'(?<!\\)(?:\\\\)*"', text)) % 2 == 1


def _is_cut(text: str) -> bool:
    """Return whether a text is a beginning of valid JSON: the parser runs off its end."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
    except RecursionError:
        return False
    return False


def _wanted(error: orjson.JSONDecodeError) -> str:
    """Return the parser's complaint in words."""
    if "expected a JSON value" in error.msg:
        return "expected a value"
    if error.msg == "unexpected content after document":
        return "expected the end of the line"
    return error.msg
