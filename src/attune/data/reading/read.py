"""Reading a data file into rows that remember file, line and byte offset; a bad row is reported, never lost."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from attune.data.reading.hub import is_hub, read_hub
from attune.data.reading.json_array import read_array
from attune.data.reading.line import BadRow, RawRow, parse_line, too_large
from attune.data.reading.parquet import read_parquet
from attune.data.reading.table import read_csv
from attune.data.reading.unpack import BUFFER, open_plain, packing_of, plain_name
from attune.errors import DataError
from attune.types import Place

__all__ = [
    "BadRow",
    "Part",
    "RawRow",
    "cut_lines",
    "file_form",
    "is_data_file",
    "missing_text",
    "read_part",
    "read_rows",
]

DATA_ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
PARQUET = b"PAR1"
MAGIC = (
    (PARQUET, "is a packed Parquet file: unpack it (Parquet packs its columns by itself)"),
    (b"PK\x03\x04", "is a zip archive (or a spreadsheet): unpack it, or save it as CSV"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7-Zip archive: unpack it"),
    (b"\xff\xfe\x00\x00", "is UTF-32 (starts FF FE 00 00). Convert to UTF-8: iconv -f utf-32 -t utf-8"),
    (b"\xff\xfe", "is UTF-16 (starts FF FE). Convert to UTF-8: iconv -f utf-16 -t utf-8"),
    (b"\xfe\xff", "is UTF-16 (starts FE FF). Convert to UTF-8: iconv -f utf-16 -t utf-8"),
)
OPEN_BRACE = ord("{")
BOM = b"\xef\xbb\xbf"
LINES = "JSONL"  # the form of a file that can be read in parts
WHOLE = sys.maxsize  # the end of a part that is all of its file


class Part(NamedTuple):
    """A stretch of a file of lines, in bytes, that begins and ends between two lines."""

    begin: int
    end: int
    lines_before: int


def read_rows(path: str | Path, *, max_row_bytes: int) -> Iterator[RawRow | BadRow]:
    """Yield every row of a data file or Hub set in order, bad ones as BadRow.

    JSONL, a JSON array, CSV or Parquet; gzip, bzip2, xz and zstd are unpacked on the way. Offsets are those of the
    unpacked bytes; in Parquet and Hub sets the line is the row's number and the offset is counted as if it were JSON.

    Raises: DataError when the file as a whole cannot be read (missing, empty, broken archive, another format).
    """
    if is_hub(str(path)):
        yield from read_hub(str(path), max_row_bytes)
        return
    path = Path(path)
    _refuse_absent(path)
    if _starts_parquet(path):
        yield from read_parquet(path, max_row_bytes)
        return
    with open_plain(path) as file:
        head = file.peek(BUFFER)
        _refuse_unreadable(path, head)
        skipped = len(BOM) if head.startswith(BOM) else 0
        file.read(skipped)
        form = _form(path, head)
        if form == "CSV":
            yield from read_csv(path, file, skipped, max_row_bytes)
        elif form == LINES:
            yield from _read_lines(path, file, Part(skipped, WHOLE, 0), max_row_bytes)
        else:
            yield from read_array(path, file, skipped, max_row_bytes)


def file_form(path: str | Path) -> str:
    """Return how a file is read: "JSONL", "one JSON array", "CSV" or "Parquet", and how it is packed."""
    if is_hub(str(path)):
        return "Hub set"
    path = Path(path)
    if _starts_parquet(path):
        return "Parquet"
    packing = packing_of(path)
    with open_plain(path) as file:
        form = _form(path, file.peek(BUFFER))
    if not packing:
        return form
    return f"{packing} of one JSON array" if form == "one JSON array" else f"{packing}-packed {form}"


def is_data_file(name: str) -> bool:
    """Return whether a file's name ends as those of data files do, packed or not; a fix's ledger holds no rows."""
    plain = plain_name(name)
    return plain.endswith(DATA_ENDINGS) and not plain.endswith(".ledger.jsonl")


def missing_text(path: Path) -> str:
    """Return the message for a file that is not there, with what is there instead."""
    folder = path.parent
    if not folder.is_dir():
        return f"{path} not found: there is no folder {folder}."
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    data = [name for name in names if is_data_file(name)]
    near = difflib.get_close_matches(path.name, data, n=1, cutoff=0.5)
    text = f"{path} not found."
    if data:
        more = f" and {len(data) - 5} more" if len(data) > 5 else ""
        text += f" In {folder}/ there are: {', '.join(data[:5])}{more}."
    return text + (f"\nDid you mean {folder / near[0]}?" if near else "")


def _form(path: Path, head: bytes) -> str:
    """Return how unpacked text that begins with `head` is read."""
    if plain_name(path.name).endswith((".csv", ".tsv")):
        return "CSV"
    return "one JSON array" if head.removeprefix(BOM).lstrip()[:1] == b"[" else LINES


def _starts_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(PARQUET)) == PARQUET


def _refuse_absent(path: Path) -> None:
    """Raise DataError for a path that names no file that can be opened."""
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if is_data_file(p.name))
        listed = f"{len(inside)} data files inside: {', '.join(inside[:5])}" if inside else "no data file inside"
        raise DataError(f"{path} is a directory; {listed}.\nName one file.")
    if not path.exists():
        raise DataError(missing_text(path))
    packing_of(path)


def _refuse_unreadable(path: Path, head: bytes) -> None:
    """Raise DataError for a file that no row can come from, as its first unpacked bytes show."""
    if not head:
        raise DataError(f"{path} is empty (0 bytes): 0 rows.")
    for magic, text in MAGIC:
        if head.startswith(magic):
            raise DataError(f"{path} {text}.")
    if head[257:262] == b"ustar":
        raise DataError(f"{path} is a tar archive: unpack it with tar -xf {path}.")


def cut_lines(path: str | Path, size: int) -> list[Part]:
    """Return a JSONL file that is not packed in parts of about `size` bytes, cut between lines."""
    parts: list[Part] = []
    with Path(path).open("rb") as file:
        begin = len(BOM) if file.read(len(BOM)) == BOM else 0
        line = 0
        file.seek(begin)
        while block := file.read(size):
            rest = b"" if block.endswith(b"\n") else file.readline()
            parts.append(Part(begin, begin + len(block) + len(rest), line))
            begin, line = parts[-1].end, line + block.count(b"\n") + rest.endswith(b"\n")
    return parts


def read_part(path: str | Path, part: Part, *, max_row_bytes: int) -> Iterator[RawRow | BadRow]:
    """Yield the rows of a part of a JSONL file, as `read_rows` does."""
    with Path(path).open("rb") as file:
        file.seek(part.begin)
        yield from _read_lines(Path(path), file, part, max_row_bytes)


def _read_lines(path: Path, file: BinaryIO, part: Part, limit: int) -> Iterator[RawRow | BadRow]:
    """Yield the rows of a part of a JSONL file, opened where the part begins; blank lines are no rows."""
    name, line, offset, rows = str(path), part.lines_before, part.begin, 0
    while offset < part.end and (raw := file.readline(limit + 2)):
        line += 1
        place, start = Place(name, line, offset), offset
        offset += len(raw)
        if len(raw) > limit and len(raw.rstrip(b"\r\n")) > limit:
            while not raw.endswith(b"\n") and (raw := file.readline(1 << 20)):
                offset += len(raw)
            rows += 1
            yield too_large(place, offset - start, limit)
        elif raw[0] == OPEN_BRACE or raw.strip():
            rows += 1
            yield parse_line(place, raw)
    if not rows and part.end == WHOLE:
        raise DataError(f"{path}: {line} lines, all blank: 0 rows.")
