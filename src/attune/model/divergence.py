"""How far a model has moved from its base: the base's likeliest tokens, kept, and the loss that holds a model there."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from attune.model.loss import learned_logits
from attune.types import Batch

KEPT = 64  # likeliest tokens of each position


class TopK(NamedTuple):
    """The likeliest tokens of N positions, likeliest first, and their log-probabilities; the rest is one lump.

    ids: int32 [N, k]; logp: float32 (float64 of a float64 model) [N, k].
    """

    ids: Tensor
    logp: Tensor


@torch.no_grad()
def top_log_probs(model: nn.Module, batch: Batch, k: int = KEPT) -> TopK:
    """Return the `k` likeliest tokens at each learned position of `batch`, in its order, on the model's device.

    A smaller vocabulary is kept whole. Logits exist a few rows at a time. The model computes in the mode it is in.
    """
    parts: list[tuple[Tensor, Tensor]] = []
    for logits in learned_logits(model, batch):
        values, ids = logits.topk(min(k, logits.shape[1]), dim=1)
        parts.append((ids.to(torch.int32), values - logits.logsumexp(dim=1, keepdim=True)))
    if not parts:
        return TopK(batch.tokens.new_empty((0, k), dtype=torch.int32), torch.empty((0, k), device=batch.tokens.device))
    return TopK(torch.cat([ids for ids, _ in parts]), torch.cat([logp for _, logp in parts]))
