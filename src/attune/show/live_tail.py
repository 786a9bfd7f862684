"""Files of records as they grow: what came since an offset, in whole lines; all of a file that was replaced."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from attune.show.facts import Record
from attune.show.page import clip
from attune.show.words import visible

MAX_BYTES = 1 << 20  # of one read; a line that is longer is read whole


@dataclass(frozen=True, slots=True)
class News:
    """What a file of records holds beyond an offset: the records, and where and in which file to go on.

    `restarted`: the file is another one or has shrunk (a resumed run replaces it), so these records begin at its start.
    """

    records: tuple[Record, ...] = ()
    offset: int = 0  # bytes
    mark: str = ""  # names the file itself: one that is replaced gets another
    restarted: bool = False
    more: bool = False  # there are further whole lines, or may be


def read_news(path: Path, offset: int = 0, mark: str = "", *, limit: int = MAX_BYTES) -> News:
    """Return the records whose lines end beyond byte `offset`, about `limit` bytes of them at most.

    A last line without its end is held back until it is whole; a damaged line is passed over. A file that is not
    there holds no records.
    """
    try:
        file = path.open("rb")
    except OSError:
        return News(restarted=offset > 0)
    with file:
        now, size = _mark(file.fileno())
        starts_line = offset == 0
        if 0 < offset <= size and mark in ("", now):
            file.seek(offset - 1)
            starts_line = file.read(1) == b"\n"
        restarted = not starts_line
        start = 0 if restarted else offset
        file.seek(start)
        block = file.read(limit)
        if len(block) == limit and not block.endswith(b"\n"):
            block += file.readline()
        whole = block[: block.rfind(b"\n") + 1]
        end = start + len(whole)
        return News(_records(whole), end, now, restarted=restarted, more=bool(whole) and start + len(block) < size)


def peek(path: Path) -> tuple[str, int]:
    """Return the mark and the size in bytes of a file, or an empty mark and 0 where there is none."""
    try:
        found = path.stat()
    except OSError:
        return "", 0
    return str(found.st_ino), found.st_size


def readable(value: Any) -> Any:
    """Return records with each text cut to what a page shows and its hidden characters written out."""
    if isinstance(value, str):
        return visible(clip(value))
    if isinstance(value, Mapping):
        return {visible(str(key)): readable(item) for key, item in value.items()}
    return [readable(item) for item in value] if isinstance(value, (list, tuple)) else value


def _mark(descriptor: int) -> tuple[str, int]:
    found = os.fstat(descriptor)
    return str(found.st_ino), found.st_size


def _records(lines: bytes) -> tuple[Record, ...]:
    records = []
    for line in lines.splitlines():
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(value, dict):
            records.append(value)
    return tuple(records)
