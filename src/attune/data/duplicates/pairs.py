"""Whether two rows say the same: exact similarity, numbers, answers and passages, for many pairs at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attune.data.duplicates.shingles import Common, Spans, gather, jaccard, row_spans
from attune.data.duplicates.words import Keys, Words
from attune.data.lint.thresholds import Thresholds

BATCH_WORDS = 2_000_000  # of one side, compared at once


class Judge:
    """Decides about candidate pairs; holds what that takes of all rows."""

    def __init__(self, words: Words, keys: Keys, common: Common, thresholds: Thresholds) -> None:
        self.words, self.keys, self.common, self.thresholds = words, keys, common, thresholds

    def are_near(self, pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which pairs are near-duplicates, bool [pairs]."""
        lengths = (self.words.starts[1:] - self.words.starts[:-1])[pairs].max(axis=1, initial=0)
        piece = np.cumsum(lengths) // BATCH_WORDS
        batches = np.split(pairs, np.flatnonzero(np.diff(piece)) + 1)
        return np.concatenate([self._judge(batch) for batch in batches])

    def _judge(self, pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
        near: NDArray[np.bool_] = self.keys.tools[pairs[:, 0]] == self.keys.tools[pairs[:, 1]]
        for test in (self._are_alike, self._have_one_answer, self._have_one_question):
            left = np.flatnonzero(near)
            if len(left):
                near[left] = test(pairs[left, 0], pairs[left, 1])
        return near

    def _are_alike(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.bool_]:
        alike, _ = jaccard(self.words, row_spans(self.words, a), row_spans(self.words, b), self.common)
        same_numbers = self._numbers(row_spans(self.words, a)) == self._numbers(row_spans(self.words, b))
        limit = np.where(same_numbers, self.thresholds.near_jaccard, self.thresholds.near_jaccard_other_numbers)
        enough: NDArray[np.bool_] = alike >= limit
        return enough

    def _have_one_answer(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Two short answers, objects or calls must have the same words; long answers the same numbers and be alike."""
        spans_a, spans_b = (Spans(self.words.answer_at[rows], self.words.starts[rows + 1]) for rows in (a, b))
        plainly, _ = jaccard(self.words, spans_a, spans_b, None)
        has_words = spans_a.ends - spans_a.begins > 1
        equal: NDArray[np.bool_] = (self.keys.answer[a] == self.keys.answer[b]) | ((plainly == 1) & has_words)
        says_one_thing = self.keys.says_one_thing[a] | self.keys.says_one_thing[b]
        same_numbers = self._numbers(spans_a) == self._numbers(spans_b)
        alike = self._likeness(spans_a, spans_b) >= self.thresholds.near_answer_jaccard
        equal |= ~says_one_thing & same_numbers & alike
        return equal

    def _have_one_question(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which pairs ask much the same, not two things about one document: no whole passage is another one."""
        spans_a, spans_b = self._questions(a), self._questions(b)
        shorter = np.minimum(spans_a.ends - spans_a.begins, spans_b.ends - spans_b.begins)
        before = self._agreement(spans_a.begins, spans_b.begins, shorter, 1)
        after = self._agreement(spans_a.ends - 1, spans_b.ends - 1, shorter - before, -1)
        rest_a = Spans(spans_a.begins + before, spans_a.ends - after)
        rest_b = Spans(spans_b.begins + before, spans_b.ends - after)
        alike, _ = jaccard(self.words, rest_a, rest_b, None)
        length = np.minimum(rest_a.ends - rest_a.begins, rest_b.ends - rest_b.begins)
        same_passages = (length < self.thresholds.passage_words) | (alike >= self.thresholds.passage_jaccard)
        like = self._likeness(spans_a, spans_b) >= self.thresholds.near_question_jaccard
        both: NDArray[np.bool_] = same_passages & like
        return both

    def _likeness(self, a: Spans, b: Spans) -> NDArray[np.float64]:
        """Return the weighted Jaccard of parts of rows; that of plain words for a part of common words alone."""
        alike, weight = jaccard(self.words, a, b, self.common)
        few = np.flatnonzero(weight < self.thresholds.fewest_shingles)
        alike[few], _ = jaccard(self.words, Spans(a.begins[few], a.ends[few]), Spans(b.begins[few], b.ends[few]), None)
        return alike

    def _questions(self, rows: NDArray[np.int64]) -> Spans:
        """Return what comes before the last answer; all of a row that has an answer only, such as plain text."""
        begins, answers, ends = self.words.starts[rows], self.words.answer_at[rows], self.words.starts[rows + 1]
        return Spans(begins, np.where(answers - begins > 1, answers, ends))

    def _agreement(
        self, a: NDArray[np.int64], b: NDArray[np.int64], most: NDArray[np.int64], step: int
    ) -> NDArray[np.int64]:
        """Return how many words agree from two positions on, at most `most`, walking by `step`."""
        nothing = np.zeros(len(most), np.int64)
        walk, _ = gather(Spans(nothing, most))
        number = np.repeat(np.arange(len(most)), most)
        differs = self.words.flat[a[number] + step * walk] != self.words.flat[b[number] + step * walk]
        agreed: NDArray[np.int64] = most.copy()
        at = np.flatnonzero(differs)[::-1]
        agreed[number[at]] = walk[at]  # the last one written is the first that differs
        return agreed

    def _numbers(self, spans: Spans) -> NDArray[np.uint64]:
        """Return one number for the numbers and signs in each span, whatever their order."""
        positions, bounds = gather(spans)
        found = self.words.flat[positions].astype(np.uint64)
        found *= found & np.uint64(1)
        found *= np.uint64(0xD6E8FEB86659FD93)
        found ^= found >> np.uint64(32)
        total = np.concatenate((np.zeros(1, np.uint64), np.cumsum(found * np.uint64(0xD6E8FEB86659FD93))))
        sums: NDArray[np.uint64] = total[bounds[1:]] - total[bounds[:-1]]
        return sums
