"""Rows for a terminal: which text is learned, by colour or, where there is none, between marks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attune.show.words import count, visible

LEARNED, PLAIN = "\x1b[30;42m", "\x1b[0m"
OPEN, CLOSE = "[[", "]]"  # around learned text where there are no colours


def row_lines(rows: Sequence[Mapping[str, Any]], *, colours: bool) -> Iterator[str]:
    """Yield each row under its place: learned text is coloured, or stands between [[ and ]].

    What a terminal would obey in the rows is written out; the colours are the only control characters.
    """
    before, after = (LEARNED, PLAIN) if colours else (OPEN, CLOSE)
    for row in rows:
        flags = f", {', '.join(row['flags'])}" if row["flags"] else ""
        tokens = "" if row["tokens"] is None else f", {count(row['learned'])} of {count(row['tokens'])} tokens learned"
        yield visible(f"{row['file']}:{row['line']} {row['state'].replace('_', ' ')}{tokens}{flags}")
        yield from "".join(
            _marked(text, before, after, is_learned=bool(learned)) for text, learned in row["pieces"]
        ).split("\n")
        yield ""


def _marked(text: str, before: str, after: str, *, is_learned: bool) -> str:
    """Return a piece of text, marked if it is learned; colours end with each line, as a pager needs it."""
    shown = "\n".join(visible(line) for line in text.split("\n"))
    if not is_learned:
        return shown
    return "\n".join(f"{before}{line}{after}" for line in shown.split("\n"))
