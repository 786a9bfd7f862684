"""D04: held-out rows that training rows give away, each with the training row that it repeats and how."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attune.data.duplicates.near import Duplicates
from attune.data.duplicates.passages import find_cover
from attune.data.duplicates.shingles import jaccard, row_spans
from attune.data.duplicates.words import WordStore
from attune.data.lint.catalog import Found
from attune.data.lint.thresholds import DEFAULT, Thresholds
from attune.types import Place

Kind = Literal["same row", "same question", "near-duplicate", "covered", "passage"]
KINDS: dict[Kind, str] = {
    "same row": "{n} equal to a training row",
    "same question": "{n} with the question of one",
    "near-duplicate": "{n} almost equal to one",
    "covered": "{n} mostly made of runs of words of one",
    "passage": "{n} sharing a run of {passage} words or more with one",
}


class Leak(NamedTuple):
    """A held-out row that a training row gives away."""

    row: int
    train_row: int
    kind: Kind
    overlap: float  # 0 to 1: the share of its words in such runs (covered, passage); else of words in common
    words: int  # of the held-out row


def find_leaks(
    store: WordStore,
    duplicates: Duplicates,
    parts: Sequence[str] | NDArray[np.str_],
    thresholds: Thresholds = DEFAULT,
) -> list[Leak]:
    """Return the leaks, at most one for each held-out row and of the first kind that fits, rows ascending.

    `parts` names the set of each row; rows that are not "train" are held out.
    """
    words, keys = store.words(), store.keys()
    is_train = np.asarray(parts) == "train"
    train, held_out = np.flatnonzero(is_train), np.flatnonzero(~is_train)
    if not len(train) or not len(held_out):
        return []
    limit = max(thresholds.common_fewest_rows, thresholds.common_shingle_share * len(train))
    row_of, _ = _first_of(duplicates.exact_of, train, held_out)
    near_of, _ = _first_of(duplicates.cluster_of, train, held_out)
    question_of, askers = _first_of(keys.context, train, held_out)
    # a question that many rows share, such as "Write a poem.", is the task and gives nothing away
    question_words = (words.answer_at - words.starts[:-1] - 1)[held_out]
    question_of[(question_words < thresholds.leak_question_words) | (askers > limit)] = -1
    cover = find_cover(words, held_out, train, thresholds)
    covered_by = np.where(cover.share >= thresholds.leak_coverage, cover.train_row, -1)
    leaks: list[Leak] = []
    by_kind: tuple[tuple[Kind, NDArray[np.int64]], ...] = (
        ("same row", row_of),
        ("same question", question_of),
        ("near-duplicate", near_of),
        ("covered", covered_by),
        ("passage", cover.passage_row),
    )
    left = np.ones(len(held_out), np.bool_)
    for kind, train_rows in by_kind:
        chosen = np.flatnonzero(left & (train_rows >= 0))
        left[chosen] = False
        overlap = cover.share[chosen]
        if kind not in {"covered", "passage"}:
            spans = row_spans(words, held_out[chosen]), row_spans(words, train_rows[chosen])
            overlap, _ = jaccard(words, *spans, None)
        rows = held_out[chosen]
        lengths = words.starts[rows + 1] - words.starts[rows] - 2  # without the two marks
        columns = (rows, train_rows[chosen], overlap, lengths)
        leaks += [
            Leak(row, of, kind, share, n) for row, of, share, n in zip(*(c.tolist() for c in columns), strict=True)
        ]
    return sorted(leaks)


def found(
    leaks: Sequence[Leak],
    parts: Sequence[str] | NDArray[np.str_],
    place_of: Callable[[int], Place],
    thresholds: Thresholds = DEFAULT,
) -> list[Found]:
    """Return split-leak and, for what shares a passage only, shared-passage."""
    held_out = max(1, int(np.count_nonzero(np.asarray(parts) != "train")))
    results = []
    for name in ("split-leak", "shared-passage"):
        chosen = [leak for leak in leaks if (leak.kind == "passage") == (name == "shared-passage")]
        if not chosen:
            continue
        texts = {leak.row: _text(leak, place_of(leak.train_row)) for leak in chosen[: thresholds.most_examples]}
        counts = Counter(leak.kind for leak in chosen)
        passage = thresholds.leak_passage
        stated = [words.format(n=counts[kind], passage=passage) for kind, words in KINDS.items() if counts[kind]]
        detail = f"{', '.join(stated)}; {held_out} rows are held out."
        is_grave = name == "split-leak" and _num_grave(chosen, thresholds) > thresholds.leak_error_share * held_out
        results.append(Found(name, [leak.row for leak in chosen], texts, detail, None if is_grave else "warning"))
    return results


def _num_grave(leaks: Sequence[Leak], thresholds: Thresholds) -> int:
    """Return how many leaks are beyond doubt: short questions of one kind resemble each other without any copying."""
    return sum(leak.kind != "near-duplicate" or leak.words >= thresholds.leak_passage for leak in leaks)


def _first_of(
    groups: NDArray[np.int64] | NDArray[np.uint64], train: NDArray[np.int64], held_out: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each held-out row the first training row of its group (-1: none), and how many there are."""
    known, first, counts = np.unique(groups[train], return_index=True, return_counts=True)
    at = np.minimum(np.searchsorted(known, groups[held_out]), len(known) - 1)
    is_known = known[at] == groups[held_out]
    return np.where(is_known, train[first[at]], -1), np.where(is_known, counts[at], 0)


def _text(leak: Leak, place: Place) -> str:
    if leak.kind == "covered":
        return f"{leak.overlap:.0%} of its words stand in runs of {place}"
    how = {
        "same row": "the same as",
        "same question": "the same question as",
        "near-duplicate": "almost the same as",
        "passage": "shares a passage with",
    }
    return f"{how[leak.kind]} {place}"
