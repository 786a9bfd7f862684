"""Batches: what each position sees, predicts and weighs; padding; what a step's rows become."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from attune.data.batch import learned_weight, on_device, pad_to, saving, shared_batch, step_batches, to_batch
from attune.data.corpus import Corpus
from attune.data.prefix import plan_sharing
from attune.types import NOT_LEARNED, Batch
from tests.data.families import branching_corpus

Lesson = tuple[tuple[int, ...], int]  # the tokens seen, and the one to be predicted from them


def lessons(batch: Batch) -> dict[Lesson, float]:
    """Return what a batch teaches, from its plan alone: for each context and target the weight."""
    found: dict[Lesson, float] = {}
    index = np.arange(len(batch.tokens)) if batch.kv_index is None else batch.kv_index.numpy()
    tokens, targets = batch.tokens.numpy(), batch.targets.numpy()
    for (start, stop), (first, last) in zip(
        pairwise(batch.q_offsets.tolist()), pairwise(batch.kv_offsets.tolist()), strict=True
    ):
        keys = index[first:last]
        assert list(batch.positions[start:stop]) == list(range(last - first - (stop - start), last - first))
        for place in range(start, stop):
            seen = tuple(tokens[keys[: last - first - (stop - 1 - place)]].tolist())
            if targets[place] != NOT_LEARNED:
                weight = 1.0 if batch.weights is None else float(batch.weights[place])
                lesson = (seen, int(targets[place]))
                found[lesson] = found.get(lesson, 0.0) + weight
    return found


def expected(corpus: Corpus) -> dict[Lesson, float]:
    """Return what the rows of a corpus teach, from the rows alone."""
    found: dict[Lesson, float] = {}
    for number in range(corpus.num_rows):
        tokens, learned = corpus.row(number)
        for place in np.flatnonzero(learned):
            if place:
                lesson = (tuple(tokens[:place].tolist()), int(tokens[place]))
                at = int(corpus.offsets[number]) + int(place)
                found[lesson] = found.get(lesson, 0.0) + (1.0 if corpus.weights is None else float(corpus.weights[at]))
    return found


def joined(batches: tuple[Batch, ...]) -> dict[Lesson, float]:
    """Return what several batches teach together."""
    total: dict[Lesson, float] = {}
    for batch in batches:
        for lesson, weight in lessons(batch).items():
            total[lesson] = total.get(lesson, 0.0) + weight
    return total


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("micro_tokens", [10_000, 120, 40])
def test_a_step_teaches_what_its_rows_teach(levels: int, weighted: bool, micro_tokens: int) -> None:
    """Every context with its target comes with the sum of the weights of its rows, shared or not, however cut."""
    corpus = branching_corpus(levels=levels, weighted=weighted)
    want = expected(corpus)
    for share in (False, True):
        batches = step_batches(corpus, np.arange(corpus.num_rows), micro_tokens, share=share)
        have = joined(batches)
        assert have.keys() == want.keys()
        assert have == pytest.approx(want, rel=1e-6)
        assert sorted(row for batch in batches for row in batch.rows) == list(range(corpus.num_rows))
        assert sum(batch.row_tokens for batch in batches) == len(corpus.tokens)
        assert sum(batch.learned_tokens for batch in batches) == corpus.learned.sum()
        assert sum(learned_weight(batch) for batch in batches) == pytest.approx(sum(want.values()), rel=1e-6)
        assert all(len(batch.tokens) <= micro_tokens or len(batch.lengths) == 1 for batch in batches)
        assert (saving(batches) > 0) == share


def test_rows_unshared_are_plain_documents() -> None:
    """Without sharing there is nothing to gather and, unless the corpus has weights, nothing to weigh."""
    corpus = branching_corpus(levels=1)
    batch = to_batch(corpus, [2, 0])
    assert (batch.kv_index, batch.weights, batch.kv_lengths) == (None, None, None)
    assert batch.lengths == (int(corpus.lengths[2]), int(corpus.lengths[0]))
    assert batch.rows == (2, 0)
    assert torch.equal(batch.q_offsets, batch.kv_offsets)
    with pytest.raises(ValueError, match="at least one row"):
        to_batch(corpus, [])


def test_the_same_row_twice_is_one_document_of_double_weight() -> None:
    """Copies are computed once: the weights say how many there are."""
    corpus = branching_corpus(levels=1)
    (batch,) = step_batches(corpus, [4, 4, 4], 1000, share=True)
    (once,) = step_batches(corpus, [4], 1000, share=True)
    assert (batch.lengths, batch.kv_index, batch.rows) == (once.lengths, None, (4, 4, 4))
    assert batch.weights is not None
    assert set(batch.weights[batch.targets != NOT_LEARNED].tolist()) == {3.0}
    assert (batch.row_tokens, batch.learned_tokens) == (3 * once.row_tokens, 3 * once.learned_tokens)


def test_the_order_inverts_the_gathering() -> None:
    """kv_order[kv_starts[t]:kv_starts[t + 1]] are the places that hold token t, in their order; each has one."""
    corpus = branching_corpus(levels=3)
    (batch,) = step_batches(corpus, np.arange(corpus.num_rows), 10_000, share=True)
    assert batch.kv_index is not None
    assert batch.kv_order is not None
    assert batch.kv_starts is not None
    for token, (start, stop) in enumerate(pairwise(batch.kv_starts.tolist())):
        held = batch.kv_order[start:stop]
        assert len(held) >= 1
        assert held.tolist() == torch.nonzero(batch.kv_index == token).flatten().tolist()


@pytest.mark.parametrize("multiple", [1, 7, 64, 200])
@pytest.mark.parametrize("share", [False, True])
def test_padding_teaches_nothing_and_is_seen_by_nobody(share: bool, multiple: int) -> None:
    """Tokens and keys become a multiple, padding documents are short, and what is taught stays."""
    corpus = branching_corpus(levels=2)
    (batch,) = step_batches(corpus, np.arange(corpus.num_rows), 10_000, share=share)
    padded = pad_to(batch, multiple)
    assert len(padded.tokens) % multiple == 0
    assert len(padded.tokens) == len(padded.positions) == len(padded.targets) == sum(padded.lengths)
    assert padded.q_offsets[-1] == len(padded.tokens)
    assert len(padded.lengths) == len(padded.q_offsets) - 1 == len(padded.kv_offsets) - 1
    assert max(padded.lengths[len(batch.lengths) :], default=0) <= 64
    assert padded.max_q == max(padded.lengths)
    if share:
        assert padded.kv_index is not None
        assert padded.kv_lengths is not None
        assert padded.kv_starts is not None
        assert len(padded.kv_index) % multiple == 0
        assert padded.kv_offsets[-1] == len(padded.kv_index) == sum(padded.kv_lengths)
        assert padded.max_kv == max(padded.kv_lengths)
        assert len(padded.kv_starts) == len(padded.tokens) + 1
        assert int(padded.kv_index[: len(batch.tokens)].max()) < len(batch.tokens)
        extra = padded.kv_index[padded.kv_offsets[len(batch.lengths)] :]
        assert len(extra) == 0 or int(extra.min()) >= len(batch.tokens)
        assert learned_weight(padded) == learned_weight(batch)
        assert padded.weights is not None
        assert len(padded.weights) == len(padded.tokens)
    else:
        assert lessons(padded) == lessons(batch)


def test_ranks_share_a_step() -> None:
    """All ranks get the same number of micro-batches; together they teach the step, even of a single family."""
    corpus = branching_corpus(levels=1)
    want = expected(corpus)
    for share in (False, True):
        ranks = [
            step_batches(corpus, np.arange(corpus.num_rows), 10_000, share=share, world_size=3, rank=rank)
            for rank in range(3)
        ]
        assert len({len(batches) for batches in ranks}) == 1
        assert joined(tuple(batch for batches in ranks for batch in batches)) == pytest.approx(want)
        assert all(any(batch.rows for batch in batches) for batches in ranks)


def test_a_rank_without_rows_has_something_to_compute() -> None:
    """With fewer rows than ranks, a rank gets one padding token and learns nothing."""
    corpus = branching_corpus(levels=1)
    parts = [step_batches(corpus, [0], 100, share=True, world_size=2, rank=rank) for rank in range(2)]
    empty = [batch for batches in parts for batch in batches if not batch.rows]
    assert [(batch.lengths, learned_weight(batch), batch.row_tokens) for batch in empty] == [((1,), 0.0, 0)]


def test_a_batch_on_the_cpu_stays_as_it_is() -> None:
    """Nothing is copied where nothing moves."""
    batch = to_batch(branching_corpus(levels=1), [0])
    assert on_device(batch, torch.device("cpu")) is batch


def test_families_are_laid_end_to_end() -> None:
    """Several families in one batch keep apart: no document sees tokens of another family."""
    one = branching_corpus(levels=1, seed=1)
    plan = plan_sharing(one, np.arange(one.num_rows))
    assert plan is not None
    batch = shared_batch(one, [*plan.families, *plan.families])
    half = len(batch.tokens) // 2
    assert batch.kv_index is not None
    keys = batch.kv_index.split(batch.kv_lengths)
    assert all(int(seen.max()) < half for seen in keys[: len(keys) // 2])
    assert all(int(seen.min()) >= half for seen in keys[len(keys) // 2 :])
