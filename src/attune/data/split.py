"""Which rows are held out for validation: decided by each row's own content, so adding rows moves no other row."""

from __future__ import annotations

import numpy as np
import xxhash
from numpy.typing import NDArray

from attune.types import Example

FEWEST_ROWS = 20  # from here on at least one row is held out


def draw(example: Example, seed: int) -> float:
    """Return a number from 0 to 1 that depends on a row's content and the seed alone; equal rows draw equal numbers."""
    parts = (
        [example.text] if example.text is not None else [part for m in example.messages for part in (m.role, m.content)]
    )
    content = "\0".join(parts).encode("utf-8", "surrogatepass")
    return xxhash.xxh3_64_intdigest(content, seed=seed % 2**64) / 2**64


def choose_held_out(draws: NDArray[np.float64], share: float, *, most: int) -> NDArray[np.bool_]:
    """Return which rows are held out, bool [rows]: those that drew less than `share`, at most `most` of them."""
    chosen = draws < share
    if chosen.sum() > most:
        limit = np.partition(draws, most - 1)[most - 1]
        chosen = draws <= limit
        if chosen.sum() > most:  # equal rows stay together
            chosen = draws < limit
    if not chosen.any() and share > 0 and len(draws) >= FEWEST_ROWS:
        lowest = draws == draws.min()
        chosen = lowest if lowest.sum() <= min(most, len(draws) // 2) else chosen
    return chosen
