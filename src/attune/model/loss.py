"""The loss of a flat batch: cross entropy summed over its learned tokens; only their positions reach the head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attune.model.attention import PER_ROW, attention_of, documents_of
from attune.types import NOT_LEARNED, Batch


@dataclass(frozen=True, slots=True)
class LossSums:
    """Sums over the learned tokens of a batch; all stay on the device.

    loss: nats, differentiable; correct: how many the model ranks first; tokens: how many there are, or the sum of their
    weights.
    """

    loss: Tensor
    correct: Tensor
    tokens: Tensor


def token_losses(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each learned token its loss in nats, whether it was ranked first, and its position in the batch.

    Losses are float32 (float64 for a float64 model), [learned]; a batch without learned tokens gives empty tensors
    that are still differentiable.
    """
    learned = torch.nonzero(batch.targets != NOT_LEARNED).squeeze(1)
    logits = _logits_at(model, batch, learned)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    targets = batch.targets[learned]
    losses = F.cross_entropy(logits, targets, reduction="none")
    return losses, logits.detach().argmax(dim=-1) == targets, learned


def loss_sums(model: nn.Module, batch: Batch) -> LossSums:
    """Return the summed loss of `batch`, never an average: the caller divides by the learned tokens of the step."""
    losses, right, learned = token_losses(model, batch)
    if batch.weights is None:
        return LossSums(losses.sum(), right.sum(), torch.tensor(float(len(learned)), device=losses.device))
    weights = batch.weights[learned].to(losses.dtype)
    return LossSums((losses * weights).sum(), (right * weights).sum(), weights.sum())


def _logits_at(model: nn.Module, batch: Batch, learned: Tensor) -> Tensor:
    """Return the logits [learned, vocabulary] of a flat batch at the given positions."""
    if attention_of(model) == PER_ROW:
        return _logits_row_by_row(model, batch)
    output = model(
        input_ids=batch.tokens[None],
        position_ids=batch.positions[None],
        logits_to_keep=learned,
        documents=documents_of(batch),
        use_cache=False,
    )
    return output.logits[0]  # type: ignore[no-any-return]


def _logits_row_by_row(model: nn.Module, batch: Batch) -> Tensor:
    """The same for models whose attention cannot be plugged in: each document is its own forward pass."""
    parts = []
    for tokens, targets in zip(batch.tokens.split(batch.lengths), batch.targets.split(batch.lengths), strict=True):
        logits = model(input_ids=tokens[None], use_cache=False).logits[0]
        parts.append(logits[targets != NOT_LEARNED])
    return torch.cat(parts)
