"""Rows as the rules see them, made from pairs or read from a file."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path

from attune.config import DataConfig
from attune.data.lint.catalog import Found
from attune.data.lint.view import RowView, view
from attune.data.reading.intake import read_examples
from attune.types import Example, Message, Place


def rows_of(pairs: Iterable[tuple[str, str]], *, system: str = "") -> list[RowView]:
    """One row for each (question, answer), numbered from 0."""
    first = (Message("system", system),) if system else ()
    return [
        view(
            at, Example(Place("a.jsonl", at + 1, 0), (*first, Message("user", question), Message("assistant", answer)))
        )
        for at, (question, answer) in enumerate(pairs)
    ]


@functools.cache
def read_rows(path: Path, **columns: str) -> tuple[RowView, ...]:
    """All usable rows of a file, which is read once for all tests."""
    config = DataConfig(train=str(path), columns=columns)
    return tuple(view(at, example) for at, example in enumerate(read_examples(path, config)))


def by_name(found: Iterable[Found]) -> dict[str, Found]:
    """Findings by their rule's name; no name comes twice."""
    findings = list(found)
    named = {one.name: one for one in findings}
    assert len(named) == len(findings)
    return named
