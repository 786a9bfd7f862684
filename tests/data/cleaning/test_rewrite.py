"""Writing a file again: rows that stay keep their bytes, and each one's new place is known."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from attune.data.cleaning.rewrite import Key, Order, Written, rewrite
from attune.data.lint.characters import mend
from attune.data.reading.line import RawRow
from attune.data.reading.read import read_rows
from attune.errors import DataError

LIMIT = 1 << 20
JSONL = b'{"text": "a"}\r\n\n{"text":  "b\xe2\x80\xa8c"}\n{"text": "d\\u0000"}\n  \n{"text": "e"}'
ARRAY = b'[\n  {"text": "a"},\n  {"text":  "b"}, {"text": "d\\u0000"}\n  ,\n {"text": "e"}\n]\n'
CSV = b'text,n\r\n"a\nA",1\r\n"b",2\n\nd\xc3\x83\xc2\xa9,3\ne,4'
DROP, REPAIR = Order("drop", "duplicate", "why"), Order("repair", "broken-characters", "why")


@pytest.fixture(params=[("a.jsonl", JSONL), ("a.json", ARRAY), ("a.csv", CSV)], ids=["jsonl", "array", "csv"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file of four rows, the third of which has something to mend."""
    name, data = request.param
    path: Path = tmp_path / name
    path.write_bytes(data)
    return path


def again(source: Path, orders: dict[int, Order]) -> tuple[Written, Path]:
    """Write a file again; orders are given by the number of the row."""
    keys = [(row.place.line, row.place.offset) for row in read_rows(source, max_row_bytes=LIMIT)]
    target = source.with_name(f"out{source.suffix}")
    target.unlink(missing_ok=True)
    wanted: dict[Key, Order] = {keys[number]: order for number, order in orders.items()}
    return rewrite(str(source), target, wanted, mend=mend, max_row_bytes=LIMIT), target


def texts(path: Path) -> list[str]:
    """Return the text column of all rows, all of which must be good."""
    rows = list(read_rows(path, max_row_bytes=LIMIT))
    assert all(isinstance(row, RawRow) for row in rows)
    return [row.value["text"] for row in rows if isinstance(row, RawRow)]


def test_without_orders_the_copy_has_the_same_bytes(source: Path) -> None:
    """Blank lines, line ends, spaces and quotes are those of the source."""
    written, target = again(source, {})
    assert target.read_bytes() == source.read_bytes()
    assert written.kept == 4
    assert not written.repaired


@pytest.mark.parametrize("gone", [(0,), (1,), (3,), (0, 1), (2, 3), (0, 3), (0, 1, 2), (1, 2, 3)])
def test_rows_go_and_the_others_stay(source: Path, gone: tuple[int, ...]) -> None:
    """Whichever rows are dropped, the rest can be read as before and every kept row's origin is known."""
    written, target = again(source, dict.fromkeys(gone, DROP))
    before, stay = texts(source), [number for number in range(4) if number not in gone]
    assert texts(target) == [before[number] for number in stay]
    origin = written.origins()
    keys = list(zip(written.lines, written.offsets, strict=True))
    for number, row in zip(stay, read_rows(target, max_row_bytes=LIMIT), strict=True):
        assert origin(row.place.line, row.place.offset) == keys[number]
        assert row.place.line == written.new_lines[number]
    assert [line == 0 for line in written.new_lines] == [number in gone for number in range(4)]


def test_a_row_is_mended_in_its_place(source: Path) -> None:
    """Only the row that was to be mended has other bytes; an order to mend a sound row changes nothing."""
    written, target = again(source, {0: REPAIR, 2: REPAIR})
    before, after = texts(source), texts(target)
    assert [number for number in range(4) if before[number] != after[number]] == [2]
    assert list(written.repaired) == [(written.lines[2], written.offsets[2])]


def test_a_byte_order_mark_is_taken_out(source: Path) -> None:
    """The copy begins without one, and the first row says so."""
    bare = source.read_bytes()
    source.write_bytes(b"\xef\xbb\xbf" + bare)
    written, target = again(source, {})
    assert target.read_bytes() == bare
    assert written.repaired == {(written.lines[0], written.offsets[0]): "byte order mark taken out"}


def test_a_packed_file_is_written_plainly(source: Path) -> None:
    """Offsets are those of the unpacked bytes, so the same orders hold."""
    bare = source.read_bytes()
    source.write_bytes(gzip.compress(bare))
    _, target = again(source, {})
    assert target.read_bytes() == bare


def test_no_file_is_left_without_rows(source: Path) -> None:
    """A file all of whose rows go is not written."""
    written, target = again(source, dict.fromkeys(range(4), DROP))
    assert written.kept == 0
    assert not target.exists()


def test_a_file_that_changed_meanwhile_is_refused(source: Path) -> None:
    """An order for a row that is not there any more is an error, never skipped."""
    with pytest.raises(DataError, match="changed meanwhile"):
        rewrite(str(source), source.with_name("x"), {(99, 9999): DROP}, mend=mend, max_row_bytes=LIMIT)


def test_bad_rows_are_copied(tmp_path: Path) -> None:
    """Rows that cannot be used keep their bytes as well: in lines, in an array, and over the limit."""
    lines = b'{"text": "a"}\n{"text": \n{"text": "%b"}\n7\n' % (b"x" * 200)
    array = b'[{"text": "a"}, 7, "\\ud83d", {"text": "%b"} , [1, "]"]]' % (b"x" * 200)
    for name, data in (("a.jsonl", lines), ("a.json", array)):
        source, target = tmp_path / name, tmp_path / f"out-{name}"
        source.write_bytes(data)
        rewrite(str(source), target, {}, mend=mend, max_row_bytes=100)
        assert target.read_bytes() == data


def test_rows_that_are_no_text_become_jsonl(tmp_path: Path) -> None:
    """Parquet is written as lines of JSON, nested values and all."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"text": text, "tags": [text]} for text in "abc"]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    keys = [(row.place.line, row.place.offset) for row in read_rows(tmp_path / "a.parquet", max_row_bytes=LIMIT)]
    target = tmp_path / "out.jsonl"
    rewrite(str(tmp_path / "a.parquet"), target, {keys[1]: DROP}, mend=mend, max_row_bytes=LIMIT)
    assert [json.loads(line) for line in target.read_text("utf-8").splitlines()] == [rows[0], rows[2]]
