"""Reading a data file into rows that remember file, line and byte offset; a bad row is reported, never lost."""

from __future__ import annotations

import difflib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from attune.data.line import BadRow, RawRow, parse_line, too_large
from attune.data.table import read_array, read_csv
from attune.errors import DataError
from attune.types import Place

__all__ = ["BadRow", "RawRow", "file_form", "read_rows"]

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
            yield from read_csv(path, file, skipped, max_row_bytes)
        elif head[skipped:].lstrip()[:1] == b"[":
            yield from read_array(path, file.read(), skipped, max_row_bytes)
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
            yield too_large(place, offset - start, limit)
        elif raw.strip():
            rows += 1
            yield parse_line(place, raw)
    if not rows:
        raise DataError(f"{path}: {line} lines, all blank: 0 rows, nothing to train on.")
