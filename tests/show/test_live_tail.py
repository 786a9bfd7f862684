"""Reading on in files that grow: whole lines only, and from the start where a file was replaced."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from attune.record import RunFolder
from attune.show.live_tail import News, peek, read_news, readable


def lines(*steps: int) -> bytes:
    """Records of these steps as they stand in a file."""
    return b"".join(json.dumps({"step": step}).encode() + b"\n" for step in steps)


def steps(news: News) -> list[int]:
    """The steps of the records that came."""
    return [record["step"] for record in news.records]


def test_each_record_comes_once(tmp_path: Path) -> None:
    """What was read is not read again, and the offset is that of the last whole line."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(lines(1, 2))
    first = read_news(path)
    assert (steps(first), first.offset, first.restarted, first.more) == ([1, 2], len(lines(1, 2)), False, False)
    assert steps(read_news(path, first.offset, first.mark)) == []
    with path.open("ab") as file:
        file.write(lines(3))
    assert steps(read_news(path, first.offset, first.mark)) == [3]


def test_a_torn_line_waits(tmp_path: Path) -> None:
    """A last line is held back at every length until its end is there, even where it is whole JSON already."""
    path, whole = tmp_path / "metrics.jsonl", lines(7, 8)
    for length in range(len(lines(7)), len(whole)):
        path.write_bytes(whole[:length])
        news = read_news(path)
        assert (steps(news), news.offset) == ([7], len(lines(7)))
    path.write_bytes(whole)
    assert steps(read_news(path, len(lines(7)))) == [8]


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_shorter_file_starts_over(tmp_path: Path, kept: int) -> None:
    """A file that shrank is read from its start."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(lines(1, 2, 3))
    before = read_news(path)
    with path.open("r+b") as file:
        file.truncate(len(lines(*range(1, kept + 1))))
    after = read_news(path, before.offset, before.mark)
    assert (steps(after), after.restarted) == ([1, 2, 3][:kept], True)


def test_a_replaced_file_starts_over(tmp_path: Path) -> None:
    """A resumed run replaces its file; one that has grown past the old offset by then is still told apart."""
    run = RunFolder.create(tmp_path / "run")
    path = run.path / "metrics.jsonl"
    run.write_lines(path.name, [{"step": step} for step in (1, 2, 3)])
    before = read_news(path)
    run.write_lines(path.name, [{"step": 1}])
    run.append(path.name, *({"step": step} for step in (2, 3, 4)))
    after = read_news(path, before.offset, before.mark)
    assert (steps(after), after.restarted) == ([1, 2, 3, 4], True)


def test_an_offset_inside_a_line_starts_over(tmp_path: Path) -> None:
    """Half a line is never taken for a record."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(lines(1, 2))
    news = read_news(path, 3)
    assert (steps(news), news.restarted) == ([1, 2], True)


def test_a_large_file_comes_in_parts(tmp_path: Path) -> None:
    """Parts of a large file join without a gap, whatever their size, and a line longer than a part comes whole."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(lines(*range(40)) + b'{"step": 40, "text": "' + b"x" * 500 + b'"}\n' + lines(41))
    for limit in (1, 7, 64, 100, 10_000):
        found: list[int] = []
        news = News(more=True)
        while news.more:
            news = read_news(path, news.offset, news.mark, limit=limit)
            found += steps(news)
        assert found == list(range(42)), limit


def test_what_is_no_record_is_passed_over(tmp_path: Path) -> None:
    """Damaged lines, other JSON and an absent file give no records."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"{\n[1]\n\xff\xfe\n" + lines(1))
    assert steps(read_news(path)) == [1]
    assert read_news(tmp_path / "absent.jsonl") == News()
    assert read_news(tmp_path / "absent.jsonl", 5, "x").restarted


def test_peek_names_the_file(tmp_path: Path) -> None:
    """The mark and size that a file has when it is peeked at are those of reading it."""
    path = tmp_path / "metrics.jsonl"
    assert peek(path) == ("", 0)
    path.write_bytes(lines(1, 2))
    news = read_news(path)
    assert peek(path) == (news.mark, news.offset)
    os.utime(path, (1, 1))
    assert peek(path) == (news.mark, news.offset)


def test_texts_are_cut_and_made_visible() -> None:
    """No text is longer than a page shows, and hidden characters are written out, in keys too."""
    found = readable({"a\u202e": ["x" * 5000, {"b": "\x1b[31m"}], "n": 1.5, "none": None})
    assert found["a[U+202E]"][0].endswith("[... 1,000 more characters]")
    assert found["a[U+202E]"][1] == {"b": "[U+001B][31m"}
    assert (found["n"], found["none"]) == (1.5, None)
