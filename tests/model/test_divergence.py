"""The divergence from a base model: its kept tokens and the loss made of them, against the plainest float64 torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attune.model.attention import documents_of
from attune.model.divergence import top_log_probs
from attune.types import NOT_LEARNED, Batch
from tests.tiny import flat_batch, make_model, make_rows

BATCH = flat_batch(make_rows([9, 4, 13]))


def learned_log_probs(model: nn.Module, batch: Batch) -> Tensor:
    """Return the log-probabilities [learned, V] as the model's own forward and torch say."""
    logits = model(
        input_ids=batch.tokens[None], position_ids=batch.positions[None], documents=documents_of(batch), use_cache=False
    ).logits[0]
    return torch.log_softmax(logits[batch.targets != NOT_LEARNED], dim=1)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_the_likeliest_tokens_are_those_of_the_whole_distribution(name: str) -> None:
    """Kept log-probabilities are the largest ones of the full softmax, at the learned positions in order."""
    model = make_model(name)
    found = top_log_probs(model, BATCH, k=7)
    with torch.no_grad():
        expected, ids = learned_log_probs(model, BATCH).topk(7, dim=1)
    torch.testing.assert_close(found.logp, expected)
    assert found.ids.dtype == torch.int32
    assert torch.equal(found.ids.long(), ids)


def test_a_small_vocabulary_is_kept_whole() -> None:
    """With fewer tokens than are kept, the kept ones hold all probability."""
    found = top_log_probs(make_model(), BATCH)
    assert found.ids.shape == (11, 61)
    torch.testing.assert_close(found.logp.exp().sum(1), torch.ones(11, dtype=torch.float64))


def test_no_learned_position_keeps_nothing() -> None:
    """A batch that teaches nothing has no rows of kept tokens."""
    tokens, targets = make_rows([5])[0]
    found = top_log_probs(make_model(), flat_batch([(tokens, torch.full_like(targets, NOT_LEARNED))]))
    assert len(found.ids) == len(found.logp) == 0
