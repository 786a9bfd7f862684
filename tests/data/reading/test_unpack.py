"""Packed files: told by their first bytes, read as if they were plain, and never half in silence."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from attune.data.reading.line import BadRow, RawRow
from attune.data.reading.read import file_form, read_rows
from attune.data.reading.unpack import open_plain, packing_of, plain_name
from attune.errors import DataError

ROWS = [{"prompt": f"question {number} é", "completion": "a " * number} for number in range(200)]
LINES = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in ROWS)


def zstd(data: bytes) -> bytes:
    """Return data as one zstd frame."""
    library = pytest.importorskip("zstandard")
    packed: bytes = library.ZstdCompressor(write_checksum=True).compress(data)
    return packed


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 1),
    "bzip2": bz2.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
    "zstd": zstd,
}
EACH = pytest.mark.parametrize("packing", PACKERS)


def read(path: Path) -> list[RawRow | BadRow]:
    """Return all rows of a file."""
    return list(read_rows(path, max_row_bytes=10_000))


@EACH
@pytest.mark.parametrize("name", ["rows.jsonl.packed", "rows.jsonl", "rows"])
def test_packed_rows_read_as_plain_ones(packing: str, name: str, tmp_path: Path) -> None:
    """Whatever the name, the rows are the same, with line and offset in the unpacked bytes."""
    path = tmp_path / name
    path.write_bytes(PACKERS[packing](LINES))
    rows = read(path)
    assert [row.value for row in rows if isinstance(row, RawRow)] == ROWS
    for number, row in enumerate(rows, start=1):
        assert row.place.line == number
        assert LINES[row.place.offset :].startswith(LINES.split(b"\n")[number - 1])
    assert packing_of(path) == packing
    assert file_form(path) == f"{packing}-packed JSONL"


@EACH
def test_streams_end_to_end_are_one_file(packing: str, tmp_path: Path) -> None:
    """Archives made by appending, as `cat a.gz b.gz` does, are read to their end."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(PACKERS[packing](LINES[:5000]) + PACKERS[packing](LINES[5000:]))
    assert len(read(path)) == len(ROWS)


@EACH
def test_a_cut_archive_is_refused(packing: str, tmp_path: Path) -> None:
    """An archive that ends early is an error, wherever it was cut: no row is lost in silence."""
    whole = PACKERS[packing](LINES)
    for length in (20, len(whole) // 2, len(whole) - 1):
        path = tmp_path / "rows.jsonl"
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=rf"rows\.jsonl ends early: the {packing} archive is incomplete"):
            read(path)


@EACH
@pytest.mark.parametrize("fault", ["rest", "middle"])
def test_a_damaged_archive_is_refused(packing: str, fault: str, tmp_path: Path) -> None:
    """Garbage in the middle or after the end is an error too: it may be what is left of more rows."""
    whole = PACKERS[packing](LINES)
    half = len(whole) // 2
    path = tmp_path / "rows.jsonl"
    path.write_bytes(whole + b"garbage" if fault == "rest" else whole[:half] + b"garbage" * 9 + whole[half + 63 :])
    with pytest.raises(DataError, match=f"is a broken {packing} archive"):
        read(path)


@pytest.mark.parametrize("packing", ["gzip", "xz"])
def test_padding_is_no_damage(packing: str, tmp_path: Path) -> None:
    """Zeros after an archive, as tapes and block copies leave them, are padding."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(PACKERS[packing](LINES) + bytes(4096))
    assert len(read(path)) == len(ROWS)


@EACH
def test_an_archive_made_to_burst_is_one_bad_row(packing: str, tmp_path: Path) -> None:
    """A few bytes that unpack to one line of 100 MB cost little memory; the rows after it are read."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(PACKERS[packing](b"x" * 100_000_000 + b"\n" + LINES))
    assert path.stat().st_size < 500_000
    tracemalloc.start()
    rows = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(rows[0], BadRow) and "is 100.0 MB" in rows[0].text
    assert len(rows) == 1 + len(ROWS)
    assert peak < 80_000_000


@pytest.mark.parametrize(("name", "form"), [("rows.csv.gz", "CSV"), ("rows.tsv.gz", "CSV"), ("rows.json.gz", "array")])
def test_other_forms_may_be_packed_too(name: str, form: str, tmp_path: Path) -> None:
    """CSV is told by the ending below the packing's own; a JSON array by its bracket."""
    text = {"rows.csv.gz": "prompt,completion\nq,a\n", "rows.tsv.gz": "prompt\tcompletion\nq\ta\n"}
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.get(name, '[{"prompt": "q", "completion": "a"}]').encode()))
    (row,) = read(path)
    assert isinstance(row, RawRow) and row.value == {"prompt": "q", "completion": "a"}
    assert form in file_form(path) and "gzip" in file_form(path)


@pytest.mark.parametrize(
    ("inside", "words"),
    [
        (b"", "0 bytes"),
        (b"PAR1" + bytes(99), "packed Parquet"),
        (bytes(257) + b"ustar\0", "tar -xf"),
        (b"\n\n", "blank"),
    ],
)
def test_what_is_inside_is_named(inside: bytes, words: str, tmp_path: Path) -> None:
    """An archive of something that holds no rows says what it is."""
    path = tmp_path / "rows.gz"
    path.write_bytes(gzip.compress(inside))
    with pytest.raises(DataError, match=words):
        read(path)


def test_zstd_without_its_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can unpack zstd, the message says what to install."""
    if sys.version_info >= (3, 14):
        pytest.skip("Python unpacks zstd itself")
    path = tmp_path / "rows.jsonl.zst"
    path.write_bytes(zstd(LINES))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(DataError, match=r'pip install "attune-sft\[zstd\]"'):
        read(path)


def test_a_file_is_closed_again(tmp_path: Path) -> None:
    """Leaving a packed file in the middle closes it; a plain file shows its beginning before it is read."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(gzip.compress(LINES))
    with open_plain(path) as file:
        assert file.peek(10)[:9] == LINES[:9]
        assert file.readline() == LINES.split(b"\n")[0] + b"\n"
    assert file.closed
    assert plain_name("Rows.JSONL.gz") == "rows.jsonl" and plain_name("rows.csv") == "rows.csv"
