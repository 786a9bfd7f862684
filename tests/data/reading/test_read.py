"""Reading: every row with its place, in every form that a file may have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attune.config import Config, DataConfig
from attune.data.reading.intake import Intake, read_examples
from attune.data.reading.line import BadRow, RawRow
from attune.data.reading.read import read_rows
from attune.errors import ConfigError, DataError
from attune.types import Example

ROWS = [{"prompt": f"q{number} \u2028 é", "completion": "a" * number} for number in range(1, 6)]


def data(**values: object) -> DataConfig:
    """Return data settings."""
    return Config().with_values({f"data.{key}": value for key, value in values.items()}).data


def at(path: Path, offset: int) -> bytes:
    """Return the bytes of a file from an offset on."""
    return path.read_bytes()[offset:]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n  \n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_lines_know_their_place(end: bytes, bom: bytes, tmp_path: Path) -> None:
    """Every row is found again at its byte offset, also after a byte order mark, blank lines and U+2028."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(bom + end.join(json.dumps(row, ensure_ascii=False).encode() for row in ROWS))
    rows = [row for row in read_rows(path, max_row_bytes=1000) if isinstance(row, RawRow)]
    assert [row.value for row in rows] == ROWS
    for row in rows:
        assert json.loads(at(path, row.place.offset).split(b"\n")[0]) == row.value
        assert path.read_bytes()[: row.place.offset].count(b"\n") + 1 == row.place.line


@pytest.mark.parametrize("indent", [None, 2])
def test_array_elements_know_their_place(indent: int | None, tmp_path: Path) -> None:
    """The rows of a JSON array have line and offset too."""
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS, indent=indent, ensure_ascii=False), encoding="utf-8")
    rows = [row for row in read_rows(path, max_row_bytes=1000) if isinstance(row, RawRow)]
    assert [row.value for row in rows] == ROWS
    for row in rows:
        assert at(path, row.place.offset).startswith(b"{")
        assert path.read_bytes()[: row.place.offset].count(b"\n") + 1 == row.place.line
    if indent:
        assert [row.place.line for row in rows] == [2, 6, 10, 14, 18]


def test_csv_rows_may_span_lines(tmp_path: Path) -> None:
    """A quoted cell may hold line breaks and commas; the row's place is where it begins."""
    path = tmp_path / "rows.csv"
    path.write_text('prompt,completion\n"two\nlines, é",a\nq,"b ""x"""\n', encoding="utf-8")
    rows = [row for row in read_rows(path, max_row_bytes=1000) if isinstance(row, RawRow)]
    assert [row.value["prompt"] for row in rows] == ["two\nlines, é", "q"]
    assert [row.value["completion"] for row in rows] == ["a", 'b "x"']
    assert [row.place.line for row in rows] == [2, 4]
    assert at(path, rows[1].place.offset).startswith(b'q,"b')


def test_csv_faults_are_rows_of_their_own(tmp_path: Path) -> None:
    """A row with too many cells and a quote that is never closed are bad rows with their lines."""
    path = tmp_path / "rows.csv"
    path.write_text('prompt,completion\na,b,c\nq,"open\nend')
    rows = list(read_rows(path, max_row_bytes=1000))
    assert [type(row) for row in rows] == [BadRow, BadRow]
    assert [row.place.line for row in rows] == [2, 3]
    assert "3 cells" in rows[0].text  # type: ignore[union-attr]
    assert "never closed" in rows[1].text  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'[{"a": 1}, {"a": 2}', "looks cut off"),
        (b'[{"a": 1}\n {"a": 2}]', "expected a comma or ]"),
        (b'[\n{"a": oops}]', "rows.json:2:7"),
        (b"[]", "empty JSON array"),
        (b'[{"a": "\xe9"}]', "byte 0xE9 at column 9"),
        (b'[\n{"a": 1},\n{"a": "\xc3\xa4\xe9"}]', "rows.json:3 byte 0xE9 at column 10"),
        (b'[{"a": "\xc3', "byte 0xC3 at column 9"),
        (b'[{"a": 1}] [{"a": 2}]', 'after the JSON array: expected the end of the file, found "['),
        (b'[{"a": "open\n"}]', "rows.json:1:13 invalid control character"),
    ],
)
def test_a_broken_array_names_the_place(content: bytes, words: str, tmp_path: Path) -> None:
    """An array that is no JSON is refused as a whole, with line and column."""
    path = tmp_path / "rows.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_rows(path, max_row_bytes=1000))
    assert words in str(caught.value)


LAYOUTS = [
    ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, "messages"),
    ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "sharegpt"),
    ({"prompt": "q", "completion": "a"}, "prompt/completion"),
    ({"prompt": [{"role": "user", "content": "q"}], "completion": "a"}, "prompt/completion"),
    ({"instruction": "q", "input": "", "output": "a"}, "alpaca"),
    ({"instruction": "q", "response": "a"}, "alpaca"),
    ({"question": "q", "answer": "a"}, "question/answer"),
]


@pytest.mark.parametrize(("row", "layout"), LAYOUTS)
def test_layouts_are_recognised(row: dict[str, object], layout: str, tmp_path: Path) -> None:
    """Each layout becomes the same conversation."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    intake = Intake(str(path), data())
    (example,) = intake.stream()
    assert isinstance(example, Example)
    assert intake.layout == layout
    assert [(message.role, message.content) for message in example.messages] == [("user", "q"), ("assistant", "a")]


def test_columns_are_mapped(tmp_path: Path) -> None:
    """A user's columns stand in for the usual ones; the others are named as not used."""
    path = tmp_path / "rows.csv"
    path.write_text("text,category,id\nhello,greeting,7\n")
    intake = Intake(str(path), data(columns={"prompt": "text", "completion": "category"}))
    (example,) = intake.stream()
    assert isinstance(example, Example)
    assert [message.content for message in example.messages] == ["hello", "greeting"]
    assert intake.stated == "CSV of 1 rows: prompt/completion (not used: id)"
    with pytest.raises(DataError, match='no column "label"'):
        read_examples(path, data(columns={"prompt": "text", "completion": "label"}))
    with pytest.raises(ConfigError, match='did you mean "prompt"'):
        read_examples(path, data(columns={"promt": "text"}))


def test_an_unknown_layout_names_its_keys(tmp_path: Path) -> None:
    """A file without a known layout is refused with its keys, the known layouts and how to map."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"title": "x", "body": "y"}')
    with pytest.raises(DataError, match=r"rows.jsonl:1 has keys: title, body(.|\n)*data.columns.prompt"):
        read_examples(path, data())


def test_details_of_messages(tmp_path: Path) -> None:
    """Parts of text are joined; tool calls may stand without content; names, reasoning and flags are kept."""
    turns = [
        {"role": "developer", "content": [{"type": "text", "text": "be "}, {"type": "text", "text": "brief"}]},
        {"role": "user", "content": "q", "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
        {"role": "function", "content": "7"},
        {"role": "assistant", "content": "7", "reasoning_content": "why", "train": True},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": turns, "tools": '[{"name": "f"}]'}))
    (example,) = read_examples(path, data())
    assert [message.role for message in example.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert example.messages[0].content == "be brief"
    assert example.messages[1].name == "ann"
    assert example.messages[2].tool_calls
    assert (example.messages[4].reasoning, example.messages[4].train) == ("why", True)
    assert example.tools == ({"name": "f"},)


@pytest.mark.parametrize("keep", ["drop", "keep", "error"])
def test_empty_answers(keep: str, tmp_path: Path) -> None:
    """An empty answer is dropped and counted, kept, or refused, as data.on_empty says."""
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": "q", "completion": ""}, {"prompt": "q", "completion": "a"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    if keep == "error":
        with pytest.raises(DataError, match=r"rows\.jsonl:1 has an empty answer"):
            read_examples(path, data(on_empty=keep))
    else:
        assert len(read_examples(path, data(on_empty=keep))) == (2 if keep == "keep" else 1)
