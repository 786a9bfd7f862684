"""How the rows of one step lie in memory: few, balanced micro-batches, cut only between rows; never what is learned."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def lay_out(
    lengths_of_rows: Sequence[int] | NDArray[np.integer], micro_tokens: int, *, world_size: int = 1, rank: int = 0
) -> list[list[int]]:
    """Return this rank's micro-batches of a step, as indices into the given rows.

    Every micro-batch holds at most `micro_tokens` tokens; a row longer than that stands alone. All ranks get the same
    number of micro-batches, with about the same number of tokens; with more than one rank some may be empty.
    Longest row first, each into the emptiest micro-batch; if that overflows, with one more micro-batch.
    """
    lengths = [int(length) for length in lengths_of_rows]
    if not lengths:
        return []
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    alone = sum(length >= micro_tokens for length in lengths)
    fewest = alone - (-sum(length for length in lengths if length < micro_tokens) // micro_tokens)
    per_rank = max(1, -(-fewest // world_size))
    while (bins := _fill(lengths, order, per_rank * world_size, micro_tokens)) is None:
        per_rank += 1
    if world_size == 1:
        return [rows for rows in bins if rows]
    mine = []
    for number in range(per_rank):
        # back and forth, so that no rank gets all the longest
        place = rank if number % 2 == 0 else world_size - 1 - rank
        mine.append(bins[number * world_size + place])
    return mine


def _fill(lengths: Sequence[int], order: Sequence[int], count: int, micro_tokens: int) -> list[list[int]] | None:
    """Return `count` bins of rows, fullest first; None if one of several rows overflows."""
    heap = [(0, number) for number in range(count)]
    rows_of: list[list[int]] = [[] for _ in range(count)]
    for row in order:
        held, number = heapq.heappop(heap)
        if held and held + lengths[row] > micro_tokens:
            return None
        rows_of[number].append(row)
        heapq.heappush(heap, (held + lengths[row], number))
    fullest_first = sorted(heap, key=lambda entry: (-entry[0], entry[1]))
    return [sorted(rows_of[number]) for _, number in fullest_first]
