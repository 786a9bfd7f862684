"""CSV and tab-separated files: rows that may span lines, under a header."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from attune.data.reading.line import BadRow, RawRow, not_utf8
from attune.data.reading.unpack import plain_name
from attune.errors import DataError
from attune.types import Place


def read_csv(path: Path, file: BinaryIO, offset: int, limit: int) -> Iterator[RawRow | BadRow]:
    """Yield the rows of a CSV (or tab-separated) file with a header line; a row may span lines."""
    lines = _Lines(path, file, offset, limit)
    reader = csv.reader(lines, delimiter="\t" if plain_name(path.name).endswith(".tsv") else ",", strict=True)
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
        raise DataError(f"{path} has a header but no rows.")


def _csv_row(place: Place, header: list[str], cells: list[str]) -> RawRow | BadRow:
    if len(cells) != len(header):
        return BadRow(place, "number of cells", f"has {len(cells)} cells, the header names {len(header)} columns")
    notes = ("nul",) if any("\0" in cell for cell in cells) else ()
    return RawRow(place, dict(zip(header, cells, strict=True)), b"", notes)


def _csv_fault(message: str, limit: int) -> str:
    if "field larger than" in message:
        return f"has a cell over {limit / 2**20:g} MiB (data.max_row_bytes)"
    if "unexpected end" in message:
        return "a quote opened here is never closed; the file looks cut off"
    return message


class _Lines:
    """The lines of a binary file as text, counting lines and bytes as they are taken."""

    def __init__(self, path: Path, file: BinaryIO, offset: int, limit: int) -> None:
        self._path, self._file, self._limit = path, file, limit
        self.line, self.offset = 0, offset

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        raw = self._file.readline(self._limit + 2)
        if not raw:
            raise StopIteration
        self.line += 1
        if len(raw) > self._limit + 1:
            raise DataError(f"{self._path}:{self.line} is over {self._limit / 2**20:g} MiB (data.max_row_bytes).")
        self.offset += len(raw)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as fault:
            raise DataError(f"{self._path}:{self.line} {not_utf8(raw, fault.start)}") from fault
