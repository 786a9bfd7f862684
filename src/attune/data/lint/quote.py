"""How the rules show what they saw: one short line."""

from __future__ import annotations

WIDTH = 120  # characters


def quote(text: str, start: int, end: int) -> str:
    """Return the words around a span of a text on one line, at most 60 characters; what is cut off is three dots."""
    left, right = max(0, start - 20), min(len(text), max(start + 30, end + 10), start + 50)
    words = " ".join(text[left:right].split())
    return f"{'...' if left else ''}{words}{'...' if right < len(text) else ''}"


def shorten(text: str) -> str:
    """Return a text on one line of at most 120 characters."""
    line = " ".join(text.split())
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}..."
