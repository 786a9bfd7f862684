"""What a fix does to each row: which ones go, which are mended and which are left to a person, from findings alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attune.data.cleaning.seen import AreNear, Pairs, Seen
from attune.data.lint.catalog import RULES, Found

DROPPED_FOR = ("placeholder", "empty-prompt")  # rules about single rows whose rows teach nothing
REPAIRED_FOR = "broken-characters"
MOST_COMPARED = 50  # rows of one cluster that a row is compared with: a huge cluster costs no square of its size


class Action(NamedTuple):
    """What is done to a row, and the rule and reason; `of` is the row that it repeats, -1 for none.

    `left` are the rules that found something in a row that stays and which only a person can mend.
    """

    do: Literal["drop", "repair", "leave"]
    rule: str
    why: str
    of: int = -1
    left: tuple[str, ...] = ()


def decide(seen: Seen) -> dict[int, Action]:
    """Return what is done to the rows of a survey, by number; rows that are not in it stay as they are.

    Nothing is guessed. Slots and empty prompts go; of a training row that gives a held-out row away all copies go; of
    equal rows the first stays, and of near-duplicates the first of those that are near each other; broken characters
    are mended. Whatever else was found is left, and named.
    """
    actions: dict[int, Action] = {}
    gone = ~seen.is_train
    for row, why, rule in _faulty(seen.found):
        if not gone[row]:
            actions[row] = Action("drop", rule, why)
            gone[row] = True
    for row, of in _leaking(seen.leaks, seen.exact_of, gone):
        actions[row] = Action("drop", "split-leak", "gives away", of)
        gone[row] = True
    for of, row in _copies(seen.exact_of, np.flatnonzero(~gone)).tolist():
        actions[row] = Action("drop", "duplicate", "repeats", of)
        gone[row] = True
    for row, of in _repeating(seen.cluster_of, np.flatnonzero(~gone), seen.are_near):
        actions[row] = Action("drop", "near-duplicate", "almost repeats", of)
        gone[row] = True
    for row, left in _left(seen.found, gone).items():
        repaired = REPAIRED_FOR in left
        others = tuple(rule for rule in left if rule != REPAIRED_FOR)
        if repaired:
            actions[row] = Action("repair", REPAIRED_FOR, "broken characters mended", left=others)
        else:
            actions[row] = Action("leave", left[0], "", left=left[1:])
    return actions


def _faulty(found: Iterable[Found]) -> Iterable[tuple[int, str, str]]:
    """Yield the rows that go for what stands in themselves: number, why, rule."""
    for finding in found:
        if finding.name in DROPPED_FOR:
            title = RULES[finding.name].title
            for row in finding.rows:
                yield int(row), finding.texts.get(row, title), finding.name


def _leaking(
    leaks: Sequence[tuple[int, int]], exact_of: NDArray[np.int64], gone: NDArray[np.bool_]
) -> list[tuple[int, int]]:
    """Return the training rows that give a held-out row away, with it, and all rows equal to them, ascending."""
    held_by: dict[int, int] = {}
    for held, train in leaks:
        if not gone[train]:
            held_by.setdefault(int(exact_of[train]), held)
    if not held_by:
        return []
    copies = np.flatnonzero(np.isin(exact_of, np.fromiter(held_by, np.int64)) & ~gone)
    return [(int(row), held_by[int(exact_of[row])]) for row in copies]


def _copies(labels: NDArray[np.int64], rows: NDArray[np.int64]) -> Pairs:
    """Return a pair for each row whose label an earlier one of `rows` has: that first row, and the row itself."""
    order = np.argsort(labels[rows], kind="stable")
    ordered = rows[order]
    is_first = np.diff(labels[ordered], prepend=-1) != 0
    if len(rows):
        is_first[0] = True
    first_of = ordered[np.flatnonzero(is_first)][np.cumsum(is_first) - 1]
    pairs: Pairs = np.stack((first_of, ordered), axis=1)[~is_first]
    return pairs


def _repeating(cluster_of: NDArray[np.int64], rows: NDArray[np.int64], are_near: AreNear) -> Iterator[tuple[int, int]]:
    """Yield the rows of clusters that can go, each with the earlier row that it repeats and that stays.

    A cluster is a chain whose ends may have little in common, so all rows of a cluster are compared with its first,
    those that are left with the first of them, and so on.
    """
    for _ in range(MOST_COMPARED):
        pairs = _copies(cluster_of, rows)
        if not len(pairs):
            return
        near = are_near(pairs)
        for of, row in pairs[near].tolist():
            yield row, of
        rows = np.sort(pairs[~near, 1])


def _left(found: Iterable[Found], gone: NDArray[np.bool_]) -> dict[int, tuple[str, ...]]:
    """Return the rules that found something in rows that stay, the worst first; what is only told is not in it."""
    rank = {"error": 0, "warning": 1}
    severities = [(finding.severity or RULES[finding.name].severity, finding) for finding in found]
    told = sorted((pair for pair in severities if pair[0] in rank), key=lambda pair: rank[pair[0]])
    left: dict[int, tuple[str, ...]] = {}
    for _, finding in told:
        for row in finding.rows:
            if not gone[row]:
                left[int(row)] = (*left.get(int(row), ()), finding.name)
    return left
