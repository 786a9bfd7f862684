"""D05: training rows that ask the same (tools, system prompt and all turns) and are answered differently."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from attune.data.duplicates.shingles import Spans, sum_shingles
from attune.data.duplicates.words import Keys, Words, WordStore
from attune.data.lint.catalog import Found
from attune.data.lint.thresholds import DEFAULT, Thresholds
from attune.types import Place, Severity


def found(
    store: WordStore,
    parts: Sequence[str] | NDArray[np.str_],
    place_of: Callable[[int], Place],
    thresholds: Thresholds = DEFAULT,
) -> list[Found]:
    """Return the rows with contradicting short answers (conflict), and further long answers (several-answers).

    Which answer of a conflict is right is not known, so all of its rows are named. Rows without a question, such as
    plain text, contradict nothing.
    """
    words, keys = store.words(), store.keys()
    is_train = np.asarray(parts) == "train"
    has_question = words.answer_at - words.starts[:-1] > 1
    contradicting: dict[int, int] = {}  # row -> a row of the same question with another answer
    further: dict[int, int] = {}
    groups, largest = 0, (0, 0, 0)  # rows, answers, first row
    for rows in _groups(_question_keys(words, keys), np.flatnonzero(is_train & has_question)):
        short: dict[bytes, list[int]] = {}
        long: dict[bytes, list[int]] = {}
        for row in rows.tolist():
            answers = short if keys.says_one_thing[row] else long
            answers.setdefault(_answer(words, keys, row), []).append(row)
        if len(short) > 1:
            firsts = sorted(members[0] for members in short.values())
            for members in short.values():
                other = firsts[0] if members[0] != firsts[0] else firsts[1]
                contradicting.update(dict.fromkeys(members, other))
            groups += 1
            largest = max(largest, (sum(map(len, short.values())), len(short), -firsts[0]))
        if len(long) > 1:
            firsts = sorted(members[0] for members in long.values())
            further.update(dict.fromkeys(firsts[1:], firsts[0]))
    results = []
    if contradicting:
        rows_there, answers_there, first = largest
        detail = (
            f"{groups} question{'s' * (groups != 1)} with contradicting answers; the most rows, {rows_there} with "
            f"{answers_there} answers, ask that of {place_of(-first)}."
        )
        # a question may be meant to have several answers; labels of a closed set contradict each other
        labels = _label_rows(keys, np.flatnonzero(is_train), thresholds).intersection(contradicting)
        share = len(labels) / max(1, int(is_train.sum()))
        severity: Severity = "error" if share > thresholds.conflict_error_share else "warning"
        texts = _texts(contradicting, "another answer than {}", place_of, thresholds.most_examples)
        results.append(Found("conflict", sorted(contradicting), texts, detail, severity))
    if further:
        questions = len(set(further.values()))
        detail = f"{questions} question{'s' * (questions != 1)} with several long answers."
        texts = _texts(further, "another answer than {}", place_of, thresholds.most_examples)
        results.append(Found("several-answers", sorted(further), texts, detail))
    return results


def _label_rows(keys: Keys, train: NDArray[np.int64], thresholds: Thresholds) -> set[int]:
    """Return the training rows whose answer many other rows give, too."""
    _, answer, counts = np.unique(keys.answer[train], return_inverse=True, return_counts=True)
    return set(train[counts[answer] >= thresholds.conflict_label_rows].tolist())


def _question_keys(words: Words, keys: Keys) -> NDArray[np.uint64]:
    """Return a key for the words before each last answer and the tools, so that punctuation makes no other question."""
    sums = sum_shingles(words, Spans(words.starts[:-1], words.answer_at))
    return np.where(words.answer_at - words.starts[:-1] > 1, sums ^ keys.tools, keys.context)


def _groups(contexts: NDArray[np.uint64], rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the rows that share a context, for contexts of several rows."""
    order = rows[np.argsort(contexts[rows], kind="stable")]
    parts = np.split(order, np.flatnonzero(np.diff(contexts[order])) + 1)
    return [part for part in parts if len(part) > 1]


def _answer(words: Words, keys: Keys, row: int) -> bytes:
    """Return what an answer says: its words, so that punctuation makes no other answer; its key where it has none."""
    said = words.flat[words.answer_at[row] + 1 : words.starts[row + 1]]
    return said.tobytes() if len(said) else keys.answer[row].tobytes()


def _texts(others: dict[int, int], words: str, place_of: Callable[[int], Place], most: int) -> dict[int, str]:
    return {row: words.format(place_of(others[row])) for row in sorted(others)[:most]}
