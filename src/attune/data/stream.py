"""Which rows each step takes, as a pure function of seed, epoch and step: a run goes on anywhere without replaying."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


class Stream:
    """The endless order of rows: every epoch is one pass in an order of its own; a step never crosses an epoch.

    A step takes `batch_rows` rows; with `batch_tokens` above 0 it takes rows while they hold at most that many tokens
    (at least one row). The last step of an epoch takes what is left. Steps count from 1, epochs from 0.

    `copies`, float [rows], says how often each row comes in an epoch, None: once. Parts of a copy come in turns: a row
    with 0.5 is in every second epoch, one with 2.5 comes twice and thrice by turns; so many epochs as make up a whole
    number see every row equally often, and each epoch holds its share of them, to one row.
    """

    def __init__(
        self,
        lengths: Sequence[int] | NDArray[np.integer],
        *,
        seed: int,
        batch_rows: int,
        batch_tokens: int = 0,
        copies: NDArray[np.floating] | None = None,
    ) -> None:
        self.lengths = np.asarray(lengths, dtype=np.int64)
        if not len(self.lengths):
            raise ValueError("a stream needs at least one row")
        self.seed, self.batch_rows, self.batch_tokens = seed, batch_rows, batch_tokens
        self.copies = None if copies is None else _checked_copies(copies, len(self.lengths))
        self._starts = None if self.copies is None else _turn_starts(self.copies, seed)
        # results of pure functions, kept because they are asked for again at every step
        self._ends = [0]  # steps before each epoch
        self._kept: dict[int, tuple[Rows, Rows]] = {}

    def steps_per_epoch(self, epoch: int = 0) -> int:
        """Return how many steps an epoch has; with copies epochs may differ by a step."""
        if not self.batch_tokens and self.copies is None:
            return -(-len(self.lengths) // self.batch_rows)
        return len(self._epoch(epoch)[1]) - 1

    def steps_in(self, epochs: float) -> int:
        """Return the steps of so many epochs from the first, rounded to whole steps; at least 1."""
        if self.copies is None:
            return max(1, round(epochs * self.steps_per_epoch()))
        whole = int(epochs)
        steps = sum(self.steps_per_epoch(epoch) for epoch in range(whole))
        part = epochs - whole
        return max(1, steps + (round(part * self.steps_per_epoch(whole)) if part else 0))

    def rows(self, step: int) -> Rows:
        """Return the rows of a step, int64 [rows], in the order in which they are taken."""
        epoch, number = self._locate(step)
        order, cuts = self._epoch(epoch)
        return order[cuts[number] : cuts[number + 1]]

    def epoch(self, step: int) -> float:
        """Return how many passes over the rows are done after a step, with fraction; 0.0 before step 1."""
        if step < 1:
            return 0.0
        epoch, number = self._locate(step)
        order, cuts = self._epoch(epoch)
        return epoch + float(cuts[number + 1]) / len(order)

    def effective_epochs(self, step: int) -> Rows:
        """Return how often each row has been taken after a step, int64 [rows].

        The mean over the rows of a source is how often its data was seen: its effective epochs.
        """
        if step < 1:
            return np.zeros(len(self.lengths), dtype=np.int64)
        epoch, number = self._locate(step)
        order, cuts = self._epoch(epoch)
        return self._taken_before(epoch) + np.bincount(order[: cuts[number + 1]], minlength=len(self.lengths))

    def _taken_before(self, epoch: int) -> Rows:
        """Return how often each row comes in all epochs before one."""
        if self.copies is None or self._starts is None:
            return np.full(len(self.lengths), epoch, dtype=np.int64)
        return np.floor(epoch * self.copies + self._starts).astype(np.int64)

    def _locate(self, step: int) -> tuple[int, int]:
        """Return the epoch of a step and its number within it, both from 0."""
        if step < 1:
            raise ValueError(f"steps count from 1, got {step}")
        if not self.batch_tokens and self.copies is None:
            return divmod(step - 1, self.steps_per_epoch())
        while self._ends[-1] < step:
            self._ends.append(self._ends[-1] + self.steps_per_epoch(len(self._ends) - 1))
        epoch = bisect_right(self._ends, step - 1) - 1
        return epoch, step - 1 - self._ends[epoch]

    def _epoch(self, epoch: int) -> tuple[Rows, Rows]:
        """Return an epoch's order of rows and where its steps begin in it (with the end)."""
        if epoch not in self._kept:
            if len(self._kept) >= 2:
                self._kept.pop(next(iter(self._kept)))
            order = self._order(epoch)
            self._kept[epoch] = (order, self._cuts(order))
        return self._kept[epoch]

    def _order(self, epoch: int) -> Rows:
        if self.copies is None:
            return shuffled(len(self.lengths), seed=self.seed, epoch=epoch)
        counts = self._taken_before(epoch + 1) - self._taken_before(epoch)
        present = np.repeat(np.arange(len(self.lengths)), counts)
        return present[shuffled(len(present), seed=self.seed, epoch=epoch)]

    def _cuts(self, order: Rows) -> Rows:
        count = len(order)
        if not self.batch_tokens:
            return np.append(np.arange(0, count, self.batch_rows), count)
        ends = np.cumsum(self.lengths[order])
        cuts = [0]
        while cuts[-1] < count:
            before = int(ends[cuts[-1] - 1]) if cuts[-1] else 0
            fits = int(np.searchsorted(ends, before + self.batch_tokens, side="right"))
            cuts.append(max(fits, cuts[-1] + 1))
        return np.array(cuts, dtype=np.int64)


def _checked_copies(copies: NDArray[np.floating], rows: int) -> NDArray[np.float64]:
    """Return copies as float64. Raises: ValueError when they are not one number from 0 a row, some above 0."""
    exact = np.asarray(copies, dtype=np.float64)
    if exact.shape != (rows,) or not np.isfinite(exact).all() or (exact < 0).any() or not exact.any():
        raise ValueError(f"copies must be {rows} numbers from 0, not all 0")
    return exact


def _turn_starts(copies: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Return where each row stands in its turns before the first epoch, 0 <= start < 1.

    Up to epoch e a row has come floor(e * copies + start) times. Rows of the same number of copies are dealt evenly
    over the turns in a shuffled order, so that each epoch gets its share of them and not a random number.
    """
    lots = shuffled(len(copies), seed=seed, epoch=-1)  # an order that no epoch has
    by_copies = lots[np.argsort(copies[lots], kind="stable")]
    _, first, count = np.unique(copies[by_copies], return_index=True, return_counts=True)
    rank = np.arange(len(copies)) - np.repeat(first, count)
    within: NDArray[np.uint64] = by_copies.astype(np.uint64)
    noise = (_mix(np.add(within, _mix(np.array([seed % 2**64], dtype=np.uint64)))) >> np.uint64(11)) / 2.0**53
    starts = np.empty(len(copies))
    starts[by_copies] = np.minimum((rank + noise) / np.repeat(count, count), np.nextafter(1.0, 0.0))
    return starts


def shuffled(count: int, *, seed: int, epoch: int) -> Rows:
    """Return the rows 0 to count - 1 in an order that depends on seed and epoch alone.

    Rows are sorted by a hash of (seed, epoch, row): plain integer arithmetic, the same on every machine and with every
    version of numpy, whose own generators promise no such thing.
    Source: SplitMix64, Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
    """
    start = int(_mix(np.array([seed % 2**64], dtype=np.uint64))[0]) ^ (epoch + 1)
    key = _mix(np.array([start], dtype=np.uint64))
    rows: NDArray[np.uint64] = np.arange(count, dtype=np.uint64)
    return np.argsort(_mix(np.add(key, rows)), kind="stable").astype(np.int64)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return SplitMix64 of each value; arithmetic is modulo 2**64."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = values ^ (values >> np.uint64(31))
    return mixed
