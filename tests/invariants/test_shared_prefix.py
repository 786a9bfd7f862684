"""Computing what rows begin with once never changes the result: loss and all gradients are those of every row alone."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from attune.data import prefix
from attune.data.batch import pad_to, saving, step_batches, to_batch
from attune.data.corpus import Corpus
from attune.model.loss import loss_sums
from attune.types import Batch
from tests.data.families import branching_corpus
from tests.tiny import CONFIGS, make_model

TOLERANCES = {"gpt2": (1e-9, 1e-10)}
ROUNDED = (1e-5, 5e-6)  # transformers rounds norms to float32 even in float64 models, except in GPT-2


def at(label: str, message: str) -> str:
    """Return torch's message with the weight it is about."""
    return f"{label}: {message}"


def learned_from(name: str, batches: tuple[Batch, ...]) -> tuple[float, float, dict[str, torch.Tensor]]:
    """Return loss, right predictions and gradients of a model, summed over some batches (float64)."""
    model = make_model(name)
    loss = correct = 0.0
    for batch in batches:
        sums = loss_sums(model, batch)
        sums.loss.backward()
        loss, correct = loss + float(sums.loss.detach()), correct + float(sums.correct)
    return loss, correct, {label: p.grad for label, p in model.named_parameters() if p.grad is not None}


def compare(name: str, batches: tuple[Batch, ...], corpus: Corpus) -> None:
    """Assert that batches give the loss and gradients of the corpus' rows, each in a batch of its own."""
    loss, correct, grads = learned_from(name, batches)
    alone = tuple(to_batch(corpus, [row]) for row in range(corpus.num_rows))
    want, right, others = learned_from(name, alone)
    assert loss == pytest.approx(want, rel=1e-8)
    assert correct == pytest.approx(right, rel=1e-6)
    assert grads.keys() == others.keys()
    rtol, atol = TOLERANCES.get(name, ROUNDED)
    for label, grad in grads.items():
        torch.testing.assert_close(grad, others[label], rtol=rtol, atol=atol, msg=partial(at, label))


def shared(corpus: Corpus, micro_tokens: int = 10_000) -> tuple[Batch, ...]:
    """Return the batches of all rows with shared beginnings."""
    batches = step_batches(corpus, np.arange(corpus.num_rows), micro_tokens, share=True)
    assert saving(batches) > 0.2
    assert any(batch.kv_index is not None for batch in batches)
    return batches


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("name", CONFIGS)
def test_sharing_changes_nothing(name: str, levels: int) -> None:
    """For every architecture and depth, with weights, branches inside the answer, copies and rows within rows."""
    corpus = branching_corpus(levels=levels, weighted=levels != 2)
    compare(name, shared(corpus), corpus)


def test_cut_families_change_nothing() -> None:
    """Families cut over several micro-batches, each with the shared part again, give the same sums."""
    corpus = branching_corpus(levels=2, weighted=True)
    batches = shared(corpus, micro_tokens=90)
    assert len(batches) > 2
    compare("llama", batches, corpus)


@pytest.mark.parametrize("multiple", [64, 200])
@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_padding_changes_nothing(name: str, multiple: int) -> None:
    """Padding documents add nothing to loss or gradients, with and without shared beginnings."""
    corpus = branching_corpus(levels=2)
    for batches in (shared(corpus), (to_batch(corpus, range(corpus.num_rows)),)):
        compare(name, tuple(pad_to(batch, multiple) for batch in batches), corpus)


def test_a_plan_that_shares_one_token_too_many_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison can fail: sharing the position before a differing target changes the loss."""
    corpus = branching_corpus(levels=2)
    monkeypatch.setattr(prefix, "_last_agreement", lambda corpus, groups, branch: branch.depth)
    with pytest.raises(AssertionError):
        compare("llama", shared(corpus), corpus)


def test_keys_of_another_branch_are_seen() -> None:
    """The comparison can fail: one gathered key from a sibling changes loss and gradients."""
    corpus = branching_corpus(levels=1)
    (batch,) = shared(corpus)
    assert batch.kv_index is not None
    assert batch.kv_lengths is not None
    batch.kv_index[sum(batch.kv_lengths[:2])] = len(batch.tokens) - 1
    with pytest.raises(AssertionError):
        compare("llama", (batch,), corpus)
