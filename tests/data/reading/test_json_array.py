"""A JSON array is read in parts: wherever a part ends, the rows and their places are the same."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest

from attune.data.reading import json_array
from attune.data.reading.line import BadRow, RawRow
from attune.data.reading.read import read_rows
from attune.errors import DataError

ROWS = [
    {"prompt": f'é\u2028 {number} \\ " \U0001f600', "score": number * 1.5, "completion": "a\n" * number}
    for number in range(9)
]
INDENTS = {"lines": 1, "one line": None}


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64, 1000])
@pytest.mark.parametrize("layout", INDENTS)
def test_parts_change_nothing(block: int, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read by parts of any size, through characters, escapes and numbers, every row is found where it stands."""
    monkeypatch.setattr(json_array._Window, "BLOCK", block)
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS, ensure_ascii=False, indent=INDENTS[layout]) + "\n", encoding="utf-8")
    data = path.read_bytes()
    rows = list(read_rows(path, max_row_bytes=1000))
    assert [row.value for row in rows if isinstance(row, RawRow)] == ROWS
    for row in rows:
        assert data[row.place.offset :].startswith(b"{")
        assert data[: row.place.offset].count(b"\n") + 1 == row.place.line


@pytest.mark.parametrize("block", [1, 5, 1000])
def test_parts_change_no_message(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults have the same line and column, however the file is read; bare numbers and texts are bad rows."""
    monkeypatch.setattr(json_array._Window, "BLOCK", block)
    path = tmp_path / "rows.json"
    for content, words in (
        (b'[{"a": 1},\n {"a": 1}, {"b": oops}]', "rows.json:2:18 expecting value"),
        (b'[{"a": "\xc3\xa4"}, {"a": "\xc3\xa4\xe9"}]', "rows.json:1 byte 0xE9 at column 24"),
        (b'[{"a": 1}, {"a": 2', "rows.json:1:19 expecting ',' delimiter"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            list(read_rows(path, max_row_bytes=1000))
        assert words in str(caught.value)
    path.write_bytes(b'[12345, "text", 6]')
    rows = list(read_rows(path, max_row_bytes=1000))
    assert [row.kind for row in rows if isinstance(row, BadRow)] == ["not an object"] * 3


def test_a_large_array_is_never_whole_in_memory(tmp_path: Path) -> None:
    """Of a packed array of 40 MB a small part is held, though a character beyond Latin-1 makes text four bytes wide."""
    rows = b",".join(
        json.dumps({"prompt": "\U0001f600" + "q" * 9000}, ensure_ascii=False).encode() for _ in range(4400)
    )
    path = tmp_path / "rows.json.gz"
    path.write_bytes(gzip.compress(b"[" + rows + b"]", 1))
    tracemalloc.start()
    count = sum(1 for _ in read_rows(path, max_row_bytes=100_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 4400
    assert peak < 30_000_000


def test_an_element_that_does_not_end_is_given_up(tmp_path: Path) -> None:
    """A row over the limit is a bad row and the next one is read; one that goes on and on ends the reading."""
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"prompt": "x" * 2_000_000}, {"prompt": "y"}]))
    first, second = read_rows(path, max_row_bytes=1_000_000)
    assert isinstance(first, BadRow) and first.kind == "row too large"
    assert isinstance(second, RawRow)
    path.write_text('[{"prompt": "' + "x" * 20_000_000)
    with pytest.raises(DataError, match=r"rows\.json:1 has an element that does not end within 7"):
        list(read_rows(path, max_row_bytes=1_000_000))
