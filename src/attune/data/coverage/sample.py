"""A sample of rows that does not depend on their order: those whose content has the smallest hashes."""

from __future__ import annotations

import heapq
from typing import NamedTuple

import xxhash

from attune.data.lint.view import RowView

KEPT_CHARACTERS = 8000  # of a sampled question or answer, so that memory stays bounded


class Sampled(NamedTuple):
    """A row of the sample; `rows` says how many rows of the data set have this very content."""

    number: int  # of the first such row
    question: str
    answer: str
    rows: int


class Sample:
    """The `size` contents with the smallest hashes among all that were taken.

    A content that stands in many rows enters once, and its rows are counted exactly: once a content falls out, none of
    its copies can come back, for the bar only sinks.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._heap: list[int] = []  # negated hashes, so that the greatest hash stands first
        self._kept: dict[int, Sampled] = {}
        self._bar = 1 << 64  # contents with a hash from here on are not kept

    def take(self, row: RowView) -> None:
        """Keep a row if its content's hash is among the smallest; 1 us where it is not."""
        content = f"{row.context}\0{row.question}\0{row.answer}"
        key = xxhash.xxh3_64_intdigest(content.encode("utf-8", "surrogatepass"))
        if key >= self._bar:
            return
        self._add(key, Sampled(row.number, row.question[:KEPT_CHARACTERS], row.answer[:KEPT_CHARACTERS], 1))

    def _add(self, key: int, new: Sampled) -> None:
        if key >= self._bar:
            return
        known = self._kept.get(key)
        if known is not None:
            self._kept[key] = known._replace(rows=known.rows + new.rows, number=min(known.number, new.number))
            return
        self._kept[key] = new
        heapq.heappush(self._heap, -key)
        if len(self._heap) > self._size:
            del self._kept[-heapq.heappop(self._heap)]
            self._bar = -self._heap[0] + 1  # its own copies still count

    def absorb(self, part: Sample, base: int) -> None:
        """Add what another one kept of rows that follow; `base`: the number of the first of them."""
        for key, kept in part._kept.items():
            self._add(key, kept._replace(number=kept.number + base))

    def by_hash(self) -> list[Sampled]:
        """Return the sample in the order of its hashes, which is random but the same every time."""
        return [self._kept[key] for key in sorted(self._kept)]

    def by_number(self) -> list[Sampled]:
        """Return the sample in the order of the rows."""
        return sorted(self._kept.values())
