"""What a fix needs of a survey: findings, copies, and every training row that gives a held-out one away."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from attune.data.duplicates.pairs import Judge
from attune.data.duplicates.passages import find_cover
from attune.data.duplicates.shingles import find_common
from attune.data.duplicates.words import WordStore
from attune.data.lint.catalog import Found
from attune.data.lint.thresholds import DEFAULT, Thresholds
from attune.data.reading.line import BadRow
from attune.types import Place

if TYPE_CHECKING:
    from attune.data.duplicates.leaks import Leak
    from attune.data.reading.intake import Intake
    from attune.data.survey import Surveyed

MOST_COVERING = 20  # training rows that are looked for because they cover one held-out row

Pairs = NDArray[np.int64]  # [pairs, 2]: numbers of rows
AreNear = Callable[[Pairs], NDArray[np.bool_]]  # [pairs]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a survey saw of the rows that may be changed and of those that they are compared with.

    Rows have the survey's numbers, 0 to rows - 1. Rows that are no examples have places only.
    """

    found: Sequence[Found]
    place_of: Callable[[int], Place]
    is_train: NDArray[np.bool_]  # [rows]: rows that may be changed; held-out rows never are
    exact_of: NDArray[np.int64]  # [rows]: equal rows have one number here
    cluster_of: NDArray[np.int64]  # [rows]: near-duplicates have one number here
    are_near: AreNear  # of pairs from one cluster, which ones say the same, so that the second can go
    leaks: Sequence[tuple[int, int]] = ()  # held-out row, training row that gives it away
    empty: Sequence[Place] = ()  # rows whose answer is empty
    bad: Sequence[BadRow] = ()
    odd: Sequence[Place] = ()  # rows with NUL characters


def see(surveyed: Surveyed, intakes: Iterable[Intake], thresholds: Thresholds = DEFAULT) -> Seen:
    """Return what a fix needs of a survey; `intakes` are those of the files to be cleaned, read to their ends."""
    intakes = list(intakes)
    twins = surveyed.duplicates
    is_train = np.asarray(surveyed.parts == "train")
    are_near = near_by(surveyed.store, twins.exact_of, thresholds)
    return Seen(
        surveyed.found,
        surveyed.places.__getitem__,
        is_train,
        twins.exact_of,
        twins.cluster_of,
        are_near,
        _all_leaks(surveyed, is_train, are_near, thresholds),
        [place for intake in intakes for place in intake.empty],
        [bad for intake in intakes for bad in intake.bad],
        [place for intake in intakes for place in intake.oddities.get("nul", ())],
    )


def near_by(store: WordStore, exact_of: NDArray[np.int64], thresholds: Thresholds = DEFAULT) -> AreNear:
    """Return the function that says of pairs of rows whether they are near-duplicates, asked directly.

    What it takes of all rows is counted when it is first asked, so a survey without clusters pays nothing.
    """

    @functools.cache
    def judge() -> Judge:
        words = store.words()
        distinct = np.flatnonzero(exact_of == np.arange(len(exact_of)))
        return Judge(words, store.keys(), find_common(words, distinct, thresholds), thresholds)

    return lambda pairs: judge().are_near(pairs)


def _all_leaks(
    surveyed: Surveyed, is_train: NDArray[np.bool_], are_near: AreNear, thresholds: Thresholds
) -> list[tuple[int, int]]:
    """Return every training row that gives a held-out row away in the way that was found, not just the first.

    Rows equal to one of them are left to who drops them. Shared passages are no leaks.
    """
    leaks = [leak for leak in surveyed.leaks if leak.kind != "passage"]
    pairs = [(leak.row, leak.train_row) for leak in leaks]
    by_question = [leak for leak in leaks if leak.kind == "same question"]
    if by_question:
        pairs += _sharing(surveyed.store.keys().context, by_question, is_train).tolist()
    by_words = [leak for leak in leaks if leak.kind == "near-duplicate"]
    if by_words:
        members = _sharing(surveyed.duplicates.cluster_of, by_words, is_train)
        pairs += members[are_near(members)].tolist()
    covered = np.array([leak.row for leak in leaks if leak.kind == "covered"], dtype=np.int64)
    pairs += _covering(surveyed.store, covered, np.flatnonzero(is_train), thresholds)
    return list(dict.fromkeys((int(held), int(train)) for held, train in pairs))


def _sharing(
    groups: NDArray[np.int64] | NDArray[np.uint64], leaks: Sequence[Leak], is_train: NDArray[np.bool_]
) -> Pairs:
    """Return all pairs of a leaked row and a training row of its group."""
    held = np.array([leak.row for leak in leaks], dtype=np.int64)
    train = np.flatnonzero(is_train)
    train = train[np.argsort(groups[train], kind="stable")]
    first = np.searchsorted(groups[train], groups[held])
    counts = np.searchsorted(groups[train], groups[held], side="right") - first
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    pairs: Pairs = np.stack((np.repeat(held, counts), train[np.repeat(first, counts) + within]), axis=1)
    return pairs


def _covering(
    store: WordStore, held: NDArray[np.int64], train: NDArray[np.int64], thresholds: Thresholds
) -> list[tuple[int, int]]:
    """Return pairs of a held-out row and a training row that covers it: the best first, then the best of the rest."""
    pairs: list[tuple[int, int]] = []
    for _ in range(MOST_COVERING):
        if not len(held) or not len(train):
            break
        cover = find_cover(store.words(), held, train, thresholds)
        hit = cover.share >= thresholds.leak_coverage
        held, by = held[hit], cover.train_row[hit]
        pairs += zip(held.tolist(), by.tolist(), strict=True)
        train = np.setdiff1d(train, by)
    return pairs
