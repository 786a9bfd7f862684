"""How many processors there are, and work for all of them in threads: numpy lets others run while it computes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

MOST_THREADS = 8  # each holds what it computes in memory
GivenT = TypeVar("GivenT")
MadeT = TypeVar("MadeT")


def count_processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(function: Callable[[GivenT], MadeT], values: Sequence[GivenT]) -> Iterator[MadeT]:
    """Yield what a function makes of each value, in order, computed in as many threads as there are processors."""
    threads = min(count_processors(), MOST_THREADS, len(values))
    if threads < 2:
        yield from map(function, values)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(function, values)
