"""Reading a data file into rows that remember file, line and byte offset; a bad row is reported, never lost."""

from __future__ import annotations

import csv
import difflib
import json
import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from attune.errors import DataError
from attune.types import Place, Row

DATA_ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".ndjson")
MAGIC = (
    (b"PAR1", "is Parquet, not JSONL: rename it to .parquet and convert it with pandas or pyarrow"),
    (b"PK\x03\x04", "is a zip archive (or a spreadsheet): unpack it, or save it as CSV"),
    (b"\xfd7zXZ\x00", "is xz-compressed: unpack it first with xz -dk"),
    (b"\x28\xb5\x2f\xfd", "is zstd-compressed: unpack it first with zstd -d"),
    (b"\xff\xfe\x00\x00", "is UTF-32 (starts FF FE 00 00). Convert to UTF-8: iconv -f utf-32 -t utf-8"),
    (b"\xff\xfe", "is UTF-16 (starts FF FE). Convert to UTF-8: iconv -f utf-16 -t utf-8"),
    (b"\xfe\xff", "is UTF-16 (starts FE FF). Convert to UTF-8: iconv -f utf-16 -t utf-8"),
)
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used: `kind` groups equal faults, `text` says what is wrong with this one."""

    place: Place
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row with what the reader noticed about it: the bytes it came from and notes such as "nul"."""

    row: Row
    raw: bytes
    notes: tuple[str, ...] = ()


def read_rows(path: str | Path, *, max_row_bytes: int) -> Iterator[RawRow | BadRow]:
    """Yield every row of a JSONL, JSON array or CSV file in order, bad ones as BadRow.

    Raises: DataError when the file as a whole cannot be read (missing, empty, compressed, another format).
    """
    path = Path(path)
    _refuse_unreadable(path)
    with path.open("rb") as file:
        head = file.read(64 * 1024)
        skipped = len(BOM) if head.startswith(BOM) else 0
        file.seek(skipped)
        if path.suffix.lower() in (".csv", ".tsv"):
            yield from _read_csv(path, file, skipped, max_row_bytes)
        elif head[skipped:].lstrip()[:1] == b"[":
            yield from _read_array(path, file.read(), skipped, max_row_bytes)
        else:
            yield from _read_lines(path, file, skipped, max_row_bytes)


def file_form(path: str | Path) -> str:
    """Return how a file is read: "JSONL", "one JSON array" or "CSV"."""
    path = Path(path)
    if path.suffix.lower() in (".csv", ".tsv"):
        return "CSV"
    with path.open("rb") as file:
        head = file.read(64 * 1024).removeprefix(BOM).lstrip()
    return "one JSON array" if head[:1] == b"[" else "JSONL"


def _refuse_unreadable(path: Path) -> None:
    """Raise DataError for a file that no row can come from."""
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.name.lower().endswith(DATA_ENDINGS))
        listed = f"{len(inside)} data files inside: {', '.join(inside[:5])}" if inside else "no data file inside"
        raise DataError(f"{path} is a directory; {listed}.\nName one file.")
    if not path.exists():
        raise DataError(_missing(path))
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    if not head:
        raise DataError(f"{path} is empty (0 bytes): 0 rows, nothing to train on.")
    for magic, text in MAGIC:
        if head.startswith(magic):
            raise DataError(f"{path} {text}.")
    if head.startswith(b"\x1f\x8b"):
        raise DataError(_gzip_fault(path))


def _missing(path: Path) -> str:
    """Return the message for a file that is not there, with what is there instead."""
    folder = path.parent
    if not folder.is_dir():
        return f"{path} not found: there is no folder {folder}."
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    data = [name for name in names if name.lower().endswith(DATA_ENDINGS)]
    near = difflib.get_close_matches(path.name, data, n=1, cutoff=0.5)
    text = f"{path} not found."
    if data:
        more = f" and {len(data) - 5} more" if len(data) > 5 else ""
        text += f" In {folder}/ there are: {', '.join(data[:5])}{more}."
    return text + (f"\nDid you mean {folder / near[0]}?" if near else "")


def _gzip_fault(path: Path) -> str:
    """Return what is wrong with a gzip file: cut off, or just compressed. Decompresses in blocks, keeping nothing."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 16):
                while block and not unpacker.eof:
                    unpacker.decompress(block, 1 << 20)
                    block = unpacker.unconsumed_tail
    except zlib.error as error:
        return f"{path} is a broken gzip archive: {error}. Copy it again."
    if not unpacker.eof:
        return f"{path} ends early: the gzip archive is incomplete. Copy it again, then gunzip -k {path}."
    return f"{path} is gzip-compressed: unpack it first with gunzip -k {path}."


def _read_lines(path: Path, file: BinaryIO, offset: int, limit: int) -> Iterator[RawRow | BadRow]:
    """Yield the rows of a JSONL file; blank lines are no rows."""
    name, line, rows = str(path), 0, 0
    while raw := file.readline(limit + 2):
        line += 1
        place, start = Place(name, line, offset), offset
        offset += len(raw)
        if len(raw) > limit and len(raw.rstrip(b"\r\n")) > limit:
            while not raw.endswith(b"\n") and (raw := file.readline(1 << 20)):
                offset += len(raw)
            rows += 1
            yield _too_large(place, offset - start, limit)
        elif raw.strip():
            rows += 1
            yield parse_line(place, raw)
    if not rows:
        raise DataError(f"{path}: {line} lines, all blank: 0 rows, nothing to train on.")


def _too_large(place: Place, size: int, limit: int) -> BadRow:
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
    if b"\\u0000" in raw:
        notes = (*notes, "nul")
    return as_row(place, value, raw, notes)


def as_row(place: Place, value: Any, raw: bytes, notes: tuple[str, ...]) -> RawRow | BadRow:
    """Return a parsed value as a row, or as a BadRow when it is no object."""
    if type(value) is dict:
        return RawRow(Row(place, value), raw, notes)
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
    return "a list" if isinstance(value, list) else "an object"


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
        column = fault.start + 1
        byte = raw[fault.start]
        return BadRow(
            place,
            "not UTF-8",
            f"byte 0x{byte:02X} at column {column} is not UTF-8 (looks like Latin-1). Convert: iconv -f latin1 -t utf-8",
        )
    if "depth limit" in error.msg or "recursion" in error.msg.lower():
        return BadRow(place, "nested too deep", "nested deeper than 1024 levels")
    column = error.colno
    rest = text.rstrip()[error.pos :].strip() if error.pos < len(text) else ""
    if "surrogate" in str(error):
        return BadRow(place, "lone surrogate", f"{_first_surrogate(raw)} is half a character and cannot be tokenised")
    if not raw.endswith(b"\n") and _is_cut(text):
        return BadRow(
            place,
            "line cut off",
            f"column {column}: the line ends before its JSON does; the file looks cut off (no final newline). Copy it again",
        )
    if not rest:
        return BadRow(place, "bad JSON", f"column {column}: the line ends before its JSON does")
    return BadRow(place, "bad JSON", f'column {column}: {_wanted(error)}, found "{rest[:12]}"')


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
    message = error.msg.split(":")[0].strip()
    known = {
        "unexpected character": "expected a value",
        "unexpected content after document": "expected the end of the line",
        "trailing comma is not allowed": "a comma before the end is not allowed",
    }
    return known.get(message, message)


def _read_array(path: Path, data: bytes, skipped: int, limit: int) -> Iterator[RawRow | BadRow]:
    """Yield the rows of a file that is one JSON array, each with its own line and offset."""
    name = str(path)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as fault:
        line = data.count(b"\n", 0, fault.start) + 1
        column = fault.start - data.rfind(b"\n", 0, fault.start)
        raise DataError(
            f"{path}:{line} byte 0x{data[fault.start]:02X} at column {column} is not UTF-8 (looks like Latin-1).\nConvert: iconv -f latin1 -t utf-8"
        ) from fault
    scan = json.JSONDecoder().raw_decode
    blank = re.compile(r"[ \t\r\n]*")
    position = _end(blank, text, text.index("[") + 1)
    line, offset, seen, rows = 1, skipped, 0, 0
    while text[position : position + 1] != "]":
        line += text.count("\n", seen, position)
        offset += len(text[seen:position].encode())
        seen = position
        place = Place(name, line, offset)
        try:
            _, end = scan(text, position)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}:{error.lineno}:{error.colno} {error.msg[0].lower()}{error.msg[1:]}; the file is read as one JSON array.\nMend it there, or write one row per line (JSONL)."
            ) from error
        except RecursionError as error:
            raise DataError(f"{path}:{line} nested too deep.") from error
        raw = text[position:end].encode("utf-8", "surrogatepass")
        yield _too_large(place, len(raw), limit) if len(raw) > limit else parse_line(place, raw + b"\n")
        rows += 1
        position = _end(blank, text, end)
        following = text[position : position + 1]
        if following not in (",", "]"):
            where = text.count("\n", 0, position) + 1
            found = f'found "{text[position : position + 12]}"' if following else "the file ends; it looks cut off"
            raise DataError(f"{path}:{where} after row {rows} of the JSON array: expected a comma or ], {found}.")
        if following == ",":
            position = _end(blank, text, position + 1)
    if not rows:
        raise DataError(f"{path} is an empty JSON array: 0 rows, nothing to train on.")


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


def _read_csv(path: Path, file: BinaryIO, offset: int, limit: int) -> Iterator[RawRow | BadRow]:
    """Yield the rows of a CSV (or tab-separated) file with a header line; a row may span lines."""
    lines = _Lines(path, file, offset)
    reader = csv.reader(lines, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
    before = csv.field_size_limit(limit)  # the csv module keeps this limit for the whole process: put back below
    try:
        header = next(reader, None)
        if not header or not any(cell.strip() for cell in header):
            raise DataError(f"{path}: no header line; the first line must name the columns.")
        if len(set(header)) < len(header):
            twice = next(cell for cell in header if header.count(cell) > 1)
            raise DataError(f'{path}:1 column "{twice}" appears twice.')
        rows = 0
        while True:
            place = Place(str(path), lines.line + 1, lines.offset)
            try:
                cells = next(reader, None)
            except csv.Error as error:
                rows += 1
                yield BadRow(place, "bad CSV", _csv_fault(str(error), limit))
                continue
            if cells is None:
                break
            if cells:
                rows += 1
                yield _csv_row(place, header, cells)
    finally:
        csv.field_size_limit(before)
    if not rows:
        raise DataError(f"{path} has a header but no rows: nothing to train on.")


def _csv_row(place: Place, header: list[str], cells: list[str]) -> RawRow | BadRow:
    if len(cells) != len(header):
        return BadRow(place, "number of cells", f"has {len(cells)} cells, the header names {len(header)} columns")
    notes = ("nul",) if any("\0" in cell for cell in cells) else ()
    return RawRow(Row(place, dict(zip(header, cells, strict=True))), b"", notes)


def _csv_fault(message: str, limit: int) -> str:
    if "field larger than" in message:
        return f"has a cell over {limit / 2**20:g} MiB (data.max_row_bytes)"
    if "unexpected end" in message:
        return "a quote opened here is never closed; the file looks cut off"
    return message


class _Lines:
    """The lines of a binary file as text, counting lines and bytes as they are taken."""

    def __init__(self, path: Path, file: BinaryIO, offset: int) -> None:
        self._path, self._file = path, file
        self.line, self.offset = 0, offset

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        raw = self._file.readline()
        if not raw:
            raise StopIteration
        self.line += 1
        self.offset += len(raw)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as fault:
            raise DataError(
                f"{self._path}:{self.line} byte 0x{raw[fault.start]:02X} at column {fault.start + 1} is not UTF-8 (looks like Latin-1).\n"
                "Convert: iconv -f latin1 -t utf-8"
            ) from fault
