"""Whether two rows say the same: exact similarity, numbers, answers and passages, for many pairs at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attune.data.duplicates.codes import sort_once, sort_within
from attune.data.duplicates.shingles import FACTOR, Common, Spans, gather, jaccard, row_spans, sum_between
from attune.data.duplicates.words import Keys, Words
from attune.data.lint.thresholds import Thresholds
from attune.data.processors import in_threads

BATCH_WORDS = 200_000  # of one side, compared at once: they and what is made of them fit into the processor's cache


class Judge:
    """Decides about candidate pairs; holds what that takes of all rows."""

    def __init__(self, words: Words, keys: Keys, common: Common, thresholds: Thresholds) -> None:
        self.words, self.keys, self.common, self.thresholds = words, keys, common, thresholds

    def are_near(self, pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which pairs are near-duplicates, bool [pairs]."""
        near = self._may_have_one_answer(pairs[:, 0], pairs[:, 1])
        near &= self.keys.tools[pairs[:, 0]] == self.keys.tools[pairs[:, 1]]
        left = np.flatnonzero(near)
        lengths = (self.words.starts[1:] - self.words.starts[:-1])[pairs[left]].max(axis=1, initial=0)
        piece = np.cumsum(lengths) // BATCH_WORDS
        batches = np.split(left, np.flatnonzero(np.diff(piece)) + 1)
        for batch, verdict in zip(batches, in_threads(lambda batch: self._judge(pairs[batch]), batches), strict=True):
            near[batch] = verdict
        return near

    def _judge(self, pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
        near = np.ones(len(pairs), np.bool_)
        for test in (self._are_alike, self._have_like_answers, self._have_like_questions, self._share_their_passages):
            left = np.flatnonzero(near)
            if len(left):
                near[left] = test(pairs[left, 0], pairs[left, 1])
        return near

    def _may_have_one_answer(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Two short answers, objects or calls must have the same words, two long answers the same numbers."""
        rows = sort_once(np.concatenate((a, b)))
        at_a, at_b = np.searchsorted(rows, a), np.searchsorted(rows, b)
        answers = self._answers(rows)
        all_words, numbers = _sum_words(self.words, answers, odd_only=False), _sum_words(self.words, answers)
        all_words += (answers.ends - answers.begins == 1) * self.keys.answer[rows]  # no words: an emoticon, say
        says_one_thing = self.keys.says_one_thing[a] | self.keys.says_one_thing[b]
        same: NDArray[np.bool_] = all_words[at_a] == all_words[at_b]
        same |= ~says_one_thing & (numbers[at_a] == numbers[at_b])
        return same

    def _are_alike(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.bool_]:
        spans_a, spans_b = row_spans(self.words, a), row_spans(self.words, b)
        alike, _ = jaccard(self.words, spans_a, spans_b, self.common)
        same_numbers = _sum_words(self.words, spans_a) == _sum_words(self.words, spans_b)
        limit = np.where(same_numbers, self.thresholds.near_jaccard, self.thresholds.near_jaccard_other_numbers)
        enough: NDArray[np.bool_] = alike >= limit
        return enough

    def _have_like_answers(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.bool_]:
        return self._likeness(self._answers(a), self._answers(b)) >= self.thresholds.near_answer_jaccard

    def _have_like_questions(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.bool_]:
        return self._likeness(self._questions(a), self._questions(b)) >= self.thresholds.near_question_jaccard

    def _share_their_passages(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which pairs do not differ by a whole passage, such as two questions about one document."""
        rests = self._rests(self._questions(a), self._questions(b))
        alike, _ = jaccard(self.words, *rests, None)
        length = np.minimum(*(rest.ends - rest.begins for rest in rests))
        shared: NDArray[np.bool_] = (length < self.thresholds.passage_words) | (
            alike >= self.thresholds.passage_jaccard
        )
        rows_a, rows_b = row_spans(self.words, a), row_spans(self.words, b)
        least = self.thresholds.passage_words
        at = np.flatnonzero(shared)
        at = at[_has_foreign_run(self.words, _some(rows_a, at), _some(rows_b, at), least)]
        at = at[_has_foreign_run(self.words, _some(rows_b, at), _some(rows_a, at), least)]
        shared[at] = False
        return shared

    def _rests(self, a: Spans, b: Spans) -> tuple[Spans, Spans]:
        """Return what is left of two spans without their common beginning and end."""
        shorter = np.minimum(a.ends - a.begins, b.ends - b.begins)
        before = self._agreement(a.begins, b.begins, shorter, 1)
        after = self._agreement(a.ends - 1, b.ends - 1, shorter - before, -1)
        return Spans(a.begins + before, a.ends - after), Spans(b.begins + before, b.ends - after)

    def _likeness(self, a: Spans, b: Spans) -> NDArray[np.float64]:
        """Return the weighted Jaccard of parts of rows; that of plain words for a part of common words alone."""
        alike, weight = jaccard(self.words, a, b, self.common)
        few = np.flatnonzero(weight < self.thresholds.fewest_shingles)
        alike[few], _ = jaccard(self.words, Spans(a.begins[few], a.ends[few]), Spans(b.begins[few], b.ends[few]), None)
        return alike

    def _answers(self, rows: NDArray[np.int64]) -> Spans:
        """Return the last answers, their marks included."""
        return Spans(self.words.answer_at[rows], self.words.starts[rows + 1])

    def _questions(self, rows: NDArray[np.int64]) -> Spans:
        """Return what comes before the last answer; all of a row that has an answer only, such as plain text."""
        begins, answers, ends = self.words.starts[rows], self.words.answer_at[rows], self.words.starts[rows + 1]
        return Spans(begins, np.where(answers - begins > 1, answers, ends))

    def _agreement(
        self, a: NDArray[np.int64], b: NDArray[np.int64], most: NDArray[np.int64], step: int
    ) -> NDArray[np.int64]:
        """Return how many words agree from two positions on, at most `most`, walking by `step`."""
        walk, _ = gather(Spans(np.zeros(len(most), np.int64), most))
        number = np.repeat(np.arange(len(most)), most)
        differs = self.words.flat[a[number] + step * walk] != self.words.flat[b[number] + step * walk]
        agreed: NDArray[np.int64] = most.copy()
        at = np.flatnonzero(differs)[::-1]
        agreed[number[at]] = walk[at]  # the last one written is the first that differs
        return agreed


def _some(spans: Spans, at: NDArray[np.int64]) -> Spans:
    """Return some of the spans."""
    return Spans(spans.begins[at], spans.ends[at])


def _sum_words(words: Words, spans: Spans, *, odd_only: bool = True) -> NDArray[np.uint64]:
    """Return one number for the words in each span, whatever their order; `odd_only`: for the figures and signs."""
    positions, bounds = gather(spans)
    found = words.flat[positions].astype(np.uint64)
    if odd_only:
        found *= found & np.uint64(1)
    found *= FACTOR
    found ^= found >> np.uint64(32)
    return sum_between(found * FACTOR, bounds)


def _has_foreign_run(words: Words, a: Spans, b: Spans, least: int) -> NDArray[np.bool_]:
    """Return in which pairs `a` has a run of `least` words none of which is anywhere in `b`."""
    positions_a, bounds_a = gather(a)
    positions_b, bounds_b = gather(b)
    number_a, number_b = (np.repeat(np.arange(len(x) - 1, dtype=np.uint64), np.diff(x)) for x in (bounds_a, bounds_b))
    there = (number_b << np.uint64(32)) | sort_within(words.flat[positions_b], bounds_b)
    asked = (number_a << np.uint64(32)) | words.flat[positions_a]
    at = np.searchsorted(there, asked)
    is_foreign = there[np.minimum(at, len(there) - 1)] != asked
    is_foreign[bounds_a[:-1]] = False  # the mark that each span begins with parts the runs of two pairs
    total = np.concatenate((np.zeros(1, np.int64), np.cumsum(is_foreign)))
    ends = np.flatnonzero(total[least:] - total[:-least] == least)
    has_run = np.zeros(len(a.begins), np.bool_)
    has_run[number_a[ends].astype(np.int64)] = True
    return has_run
