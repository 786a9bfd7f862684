"""A data file written again without some of its rows; what stays keeps its bytes, and every row's new line is known."""

from __future__ import annotations

import itertools
import json
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import orjson

from attune.data.cleaning.repair import Mend, repair_csv, repair_json
from attune.data.reading.line import BadRow, RawRow
from attune.data.reading.read import BOM, file_form, read_rows
from attune.data.reading.unpack import open_plain, plain_name
from attune.errors import DataError

WITH_BYTES = ("JSONL", "one JSON array", "CSV")  # forms whose rows are copied, packed or not; others become JSONL

Key = tuple[int, int]  # line and byte offset of a row in its file


class Order(NamedTuple):
    """What shall become of a row: "drop" or "repair", the rule that says so, and why."""

    do: str
    rule: str
    why: str


@dataclass
class Written:
    """A file written again. Row by row of the source: its key, and line (0: dropped) and byte offset of its copy."""

    source: str
    target: Path
    lines: array[int] = field(default_factory=lambda: array("q"))
    offsets: array[int] = field(default_factory=lambda: array("q"))
    new_lines: array[int] = field(default_factory=lambda: array("q"))
    new_offsets: array[int] = field(default_factory=lambda: array("q"))
    repaired: dict[Key, str] = field(default_factory=dict)  # what was mended
    lost: dict[Key, str] = field(default_factory=dict)  # bad rows that cannot be written, and why they are bad

    def note(self, key: Key, place: Key | None) -> None:
        """Add a row with the line and offset of its copy; None where there is none."""
        self.lines.append(key[0])
        self.offsets.append(key[1])
        self.new_lines.append(place[0] if place else 0)
        self.new_offsets.append(place[1] if place else 0)

    @property
    def kept(self) -> int:
        """How many rows were written."""
        return len(self.new_lines) - self.new_lines.count(0)

    def origins(self) -> Callable[[int, int], Key]:
        """Return a function from the line and offset of a written row to the key of the row it is a copy of."""
        new_lines, new_offsets = (np.array(column, dtype=np.int64) for column in (self.new_lines, self.new_offsets))
        kept = np.flatnonzero(new_lines)
        starts, at_lines = new_offsets[kept], new_lines[kept]

        def origin(line: int, offset: int) -> Key:
            at = int(np.searchsorted(starts, offset))
            found = at < len(starts) and starts[at] == offset and at_lines[at] == line
            assert found, f"{self.target}:{line} (byte {offset}) is no row that was written there"
            return self.lines[kept[at]], self.offsets[kept[at]]

        return origin


def rewrite(source: str, target: Path, orders: Mapping[Key, Order], *, mend: Mend, max_row_bytes: int) -> Written:
    """Write `source` to `target` as `orders` say; rows without an order are copied byte for byte.

    JSONL stays JSONL, a JSON array stays an array, CSV stays CSV, all of them unpacked and without byte order mark;
    rows of any other form are written as JSONL. No file is left when no row is kept.

    Raises: DataError when an order names a row that the file does not have (any more).
    """
    form, written, met = copied_form(source), Written(source, target), 0
    repair = _repairer(source, form, mend)
    pieces = _pieces(source, form, max_row_bytes) if form else _as_json(source, max_row_bytes)
    between = next(pieces).gap  # what is written before the next row: the file's head, then what parts two rows
    piece, has_bom = _Piece(None, b"", b""), between.startswith(BOM)
    between = between.removeprefix(BOM)
    with target.open("xb") as out:
        sink = _Sink(out)
        for piece in pieces:
            assert piece.row is not None
            key = (piece.row.place.line, piece.row.place.offset)
            order = orders.get(key)
            met += order is not None
            if isinstance(piece.row, BadRow) and not piece.body:
                written.lost[key] = piece.row.text
            if not piece.body or (order and order.do == "drop"):
                written.note(key, None)
                continue
            mended = repair(piece.body) if order else None
            if has_bom and not written.lines:
                written.repaired[key] = "byte order mark taken out"
            if order and mended is not None:
                written.repaired[key] = order.why
            written.note(key, sink.put(between, piece.body if mended is None else mended))
            between = piece.gap
        sink.put(piece.gap, b"")
    if met < len(orders):
        raise DataError(f"{source} is not the file that was checked: it changed meanwhile. Run the check again.")
    if not written.kept:
        target.unlink()
    return written


def copied_form(source: str) -> str:
    """Return the form in which a file's rows are copied, one of WITH_BYTES; "" when they are written as JSONL."""
    form = file_form(source)
    return next((name for name in WITH_BYTES if form.endswith(name)), "")


class _Sink:
    """A file being written, with the line and offset that were reached."""

    def __init__(self, out: BinaryIO) -> None:
        self._out, self._line, self._offset = out, 1, 0

    def put(self, before: bytes, row: bytes) -> Key:
        """Write a row and what stands before it; return the row's line and offset."""
        self._out.write(before)
        line, offset = self._line + before.count(b"\n"), self._offset + len(before)
        self._out.write(row)
        self._line, self._offset = line + row.count(b"\n"), offset + len(row)
        return line, offset


class _Piece(NamedTuple):
    """A row with its own bytes, and those between it and the next row. The first piece of a file is its head."""

    row: RawRow | BadRow | None
    body: bytes
    gap: bytes


def _pieces(source: str, form: str, limit: int) -> Iterator[_Piece]:
    """Yield the head of a file and its rows; all bytes of the file are in them, in order.

    Blank lines after a row of JSONL or CSV count as its own: they go with it.
    """
    rows = read_rows(source, max_row_bytes=limit)
    first = next(rows)
    with open_plain(Path(source)) as file:
        yield _Piece(None, b"", file.read(first.place.offset))
        for row, following in itertools.pairwise(itertools.chain([first], rows, [None])):
            assert row is not None
            data = file.read(following.place.offset - row.place.offset if following else -1)
            size = _array_row_size(row, data) if form == "one JSON array" else len(data)
            yield _Piece(row, data[:size], data[size:])


def _array_row_size(row: RawRow | BadRow, data: bytes) -> int:
    """Return how many bytes of `data` are the row at its beginning: a comma or the array's end follows."""
    if isinstance(row, RawRow):
        return len(row.raw.rstrip(b" \t\r\n"))
    text = data.decode("utf-8")
    _, end = json.JSONDecoder().raw_decode(text)
    return len(text[:end].encode("utf-8"))


def _as_json(source: str, limit: int) -> Iterator[_Piece]:
    """Yield the rows of a file that is no text as lines of JSON; bad ones have no bytes."""
    yield _Piece(None, b"", b"")
    for row in read_rows(source, max_row_bytes=limit):
        yield _Piece(row, b"" if isinstance(row, BadRow) else orjson.dumps(row.value, default=str) + b"\n", b"")


def _repairer(source: str, form: str, mend: Mend) -> Callable[[bytes], bytes | None]:
    """Return the function that mends one row of a file of this form."""
    if form != "CSV":
        return lambda data: repair_json(data, mend)
    delimiter = "\t" if plain_name(source).endswith(".tsv") else ","
    return lambda data: repair_csv(data, mend, delimiter=delimiter)
