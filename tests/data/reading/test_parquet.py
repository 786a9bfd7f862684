"""Parquet: the same rows as from JSONL, row by row."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from attune.config import Config
from attune.data.reading.intake import Intake
from attune.data.reading.line import BadRow, RawRow
from attune.data.reading.read import file_form, read_rows
from attune.errors import DataError
from attune.types import Example

CALL = {"function": {"name": "f", "arguments": {"a": 1}}}
ROWS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "q\0"}, {"role": "assistant", "content": "a"}], "weight": 2.0},
    {"messages": [{"role": "user", "content": "é\u2028"}, {"role": "assistant", "tool_calls": [CALL]}]},
    {
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "", "train": False},
            {"role": "user", "content": "again"},
            {"role": "assistant", "content": "a", "reasoning_content": "why", "weight": 0.5},
        ],
        "source": "made up",
    },
]


def write(path: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    """Write rows as Parquet, column by column, so that every row gets the fields of all others."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)
    return path


def examples(path: Path) -> list[Example]:
    """Return the examples of a file, without what depends on the form of the file."""
    rows = list(Intake(str(path), Config().data, source="s").stream())
    assert all(isinstance(row, Example) for row in rows)
    return [row for row in rows if isinstance(row, Example)]


def test_rows_are_those_of_jsonl(tmp_path: Path) -> None:
    """Fields that columns fill with null are gone again: the examples are those of the same rows as JSONL."""
    columns = sorted({key for row in ROWS for key in row})
    lines = tmp_path / "rows.jsonl"
    lines.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    path = write(tmp_path / "rows.parquet", [{key: row.get(key) for key in columns} for row in ROWS])
    for ours, theirs in zip(examples(path), examples(lines), strict=True):
        assert (ours.messages, ours.tools, ours.weight) == (theirs.messages, theirs.tools, theirs.weight)
        assert ours.source == theirs.source
        assert ours.place.line == theirs.place.line
    assert file_form(path) == "Parquet"


def test_many_rows_come_in_batches_with_their_numbers(tmp_path: Path) -> None:
    """Row groups and batches change nothing: lines count from 1, offsets grow, the name of the file does not matter."""
    rows = [{"prompt": f"q{number}", "completion": "a" * (number % 7)} for number in range(2500)]
    path = write(tmp_path / "rows.data", rows, row_group_size=700)
    read = list(read_rows(path, max_row_bytes=1000))
    assert [row.value for row in read if isinstance(row, RawRow)] == rows
    assert [row.place.line for row in read] == list(range(1, 2501))
    offsets = [row.place.offset for row in read]
    assert offsets == sorted(set(offsets))


def test_odd_cells(tmp_path: Path) -> None:
    """Too large rows, numbers and bytes where text belongs are bad rows; a NUL character is noticed."""
    path = write(tmp_path / "rows.parquet", [{"prompt": "q" * 2000}, {"prompt": "q\0"}])
    first, second = read_rows(path, max_row_bytes=1000)
    assert isinstance(first, BadRow) and first.kind == "row too large"
    assert isinstance(second, RawRow) and second.notes == ("nul",)
    path = write(tmp_path / "bytes.parquet", [{"prompt": "q", "completion": b"a"}])
    (row,) = Intake(str(path), Config().data).stream()
    assert isinstance(row, BadRow) and "completion must be text, found a value of type bytes" in row.text


def test_messages_may_be_json_in_a_text_column(tmp_path: Path) -> None:
    """Lists that stand as JSON in a text, as many sets keep them, are read."""
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": json.dumps([CALL])}]
    path = write(tmp_path / "rows.parquet", [{"messages": json.dumps(turns), "tools": "[]"}])
    (example,) = examples(path)
    assert example.messages[1].tool_calls == (CALL,)


@pytest.mark.parametrize("fault", ["cut", "empty"])
def test_a_broken_file_is_refused(fault: str, tmp_path: Path) -> None:
    """A file that was cut off, and one without rows, are errors of the file."""
    path = write(tmp_path / "rows.parquet", ROWS[:1])
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table({"prompt": pyarrow.array([], "string")}), path)
    with pytest.raises(DataError, match="broken Parquet" if fault == "cut" else "0 rows"):
        list(read_rows(path, max_row_bytes=1000))


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Parquet cannot be read, the message says what to install."""
    path = write(tmp_path / "rows.parquet", ROWS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r'pip install "attune-sft\[parquet\]"'):
        list(read_rows(path, max_row_bytes=1000))
