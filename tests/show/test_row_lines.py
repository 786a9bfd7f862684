"""Rows on a terminal: what is learned is marked, and nothing in a row is obeyed."""

from __future__ import annotations

import re
from typing import Any

from attune.show.row_lines import row_lines

LEARNED, PLAIN = "\x1b[30;42m", "\x1b[0m"


def row(*pieces: tuple[str, int], **changes: Any) -> dict[str, Any]:
    """A row to look at."""
    known = {"file": "a.jsonl", "line": 3, "state": "used", "tokens": 12, "learned": 5, "flags": []}
    return {**known, "pieces": [list(piece) for piece in pieces], **changes}


def test_marks_without_colours() -> None:
    """Learned text stands between brackets, under the row's place and its tokens."""
    lines = list(row_lines([row(("User: hi\nAssistant:\n", 0), ("Hello.</s>", 1), ("\n", 0))], colours=False))
    assert lines == ["a.jsonl:3 used, 5 of 12 tokens learned", "User: hi", "Assistant:", "[[Hello.</s>]]", "", ""]


def test_colours() -> None:
    """On a terminal learned text is coloured instead; without the colours the text is the same."""
    lines = list(row_lines([row(("User: hi ", 0), ("Hello.", 1))], colours=True))
    assert lines[1] == f"User: hi {LEARNED}Hello.{PLAIN}"
    assert "[[" not in "".join(lines)


def test_several_lines_are_marked_each() -> None:
    """Marks end with each line and begin again with the next, as a pager shows lines one by one."""
    pieces = (("ask\n", 0), ("one\n\ntwo", 1), (" rest", 0))
    assert list(row_lines([row(*pieces)], colours=False))[1:-1] == ["ask", "[[one]]", "[[]]", "[[two]] rest"]
    for line in list(row_lines([row(*pieces)], colours=True))[1:-1]:
        assert line.count(LEARNED) == line.count(PLAIN) == ("ask" not in line)


def test_several_rows_stand_apart() -> None:
    """Every row has its heading and ends with an empty line; flags and the state are in words."""
    rows = [row(("x", 1)), row(("y", 0), line=4, state="held_out", flags=["duplicate", "secret"])]
    lines = list(row_lines(rows, colours=False))
    assert lines.count("") == 2
    assert lines[3] == "a.jsonl:4 held out, 5 of 12 tokens learned, duplicate, secret"


def test_without_a_model_no_tokens_are_claimed() -> None:
    """Where nothing was counted nothing is said about tokens; thousands are separated where it was."""
    assert next(row_lines([row(tokens=None, learned=None)], colours=False)) == "a.jsonl:3 used"
    assert "1,200 of 3,400 tokens" in next(row_lines([row(tokens=3400, learned=1200)], colours=False))


def test_control_characters_are_written_out() -> None:
    """What a terminal would obey, or a reader would not see, is written out: in text, learned or not, and in names."""
    hostile = "a\x1b[2Jb\rc\x00d\u202ee\u200bf"
    shown = "a[U+001B][2Jb[U+000D]c[U+0000]d[U+202E]e[U+200B]f"
    for is_learned in (0, 1):
        lines = list(row_lines([row((hostile, is_learned), file=f"{hostile}.jsonl")], colours=False))
        assert lines[:2] == [
            f"{shown}.jsonl:3 used, 5 of 12 tokens learned",
            f"[[{shown}]]" if is_learned else shown,
        ]
    coloured = "".join(row_lines([row((hostile, 1), (hostile, 0))], colours=True))
    assert re.sub(r"\x1b\[(30;42|0)m", "", coloured).isprintable()


def test_tabs_and_other_scripts_stay() -> None:
    """Tabs, and joiners that scripts and emoji need, are text."""
    text = "a\tb na\u00efve \u4f60\u597d \U0001f469\u200d\U0001f4bb"
    assert list(row_lines([row((text, 0))], colours=False))[1] == text


def test_no_rows() -> None:
    """Nothing is said about no rows."""
    assert list(row_lines([], colours=True)) == []
