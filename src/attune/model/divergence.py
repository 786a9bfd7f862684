"""How far a model has moved from its base: the base's likeliest tokens, kept, and the loss that holds a model there."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from attune.model.head import HeadTask
from attune.model.loss import PLAIN, LossOptions, judged_sums, learned_logits
from attune.types import Batch

KEPT = 64  # likeliest tokens of each position
CPU_BYTES, CUDA_BYTES = 2**26, 2**28  # of logits in float32 that are held at once


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


def replay_sums(
    model: nn.Module,
    batch: Batch,
    base: TopK | None,
    *,
    weight: float,
    kl: float,
    options: LossOptions = PLAIN,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return scale * sum(weight * nll + kl * divergence), sum(nll) and sum(divergence) over the learned tokens.

    Only the first is differentiable. The divergence is KL(base || model) in nats of the tokens that `base` keeps at
    each learned position, in order, and of all others as one lump: never more than that of the whole distributions, and
    0 only where these agree on the kept ones. The negative log-likelihood is the plain one: of `options` counts whether
    a kernel may compute it, where `kl` is 0. `base` may lie on the host; None: kl is 0.
    """
    plain = LossOptions(fused=options.fused)
    if base is None or kl == 0:
        loss, nll, _, _ = judged_sums(model, batch, HeadTask, options=plain, scale=scale * weight)
        return loss, nll, torch.zeros_like(nll)
    judge = partial(_judge, base=base, weight=weight, kl=kl)
    loss, nll, divergence, _ = judged_sums(model, batch, partial(HeadTask, judge=judge), options=plain, scale=scale)
    return loss, nll, divergence


def _judge(logits: Tensor, task: HeadTask, rows: slice, *, base: TopK, weight: float, kl: float) -> Tensor:
    """Return what is minimised, the plain loss and the divergence [3, n]; turn logits into gradients where asked."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    factors = torch.full((len(logits),), task.scale, dtype=wide, device=logits.device)
    if task.weights is not None:
        factors = factors * task.weights[rows].to(wide)
    size = max(1, (CUDA_BYTES if logits.is_cuda else CPU_BYTES) // (logits.shape[1] * wide.itemsize))
    kept = TopK(*(part[rows].to(logits.device, non_blocking=True) for part in base))
    found = []
    for first in range(0, len(logits), size):
        some = slice(first, first + size)
        part, values, slope = logits[some], logits[some].to(wide), None
        if task.softcap:
            values = torch.tanh(values / task.softcap)
            slope = 1 - values * values  # of cap * tanh(x / cap)
            values = values * task.softcap
        nll, divergence, gradient = _diverge(
            values, task.targets[rows][some], TopK(kept.ids[some], kept.logp[some].to(wide)), (weight, kl)
        )
        found.append(torch.stack([weight * nll + kl * divergence, nll, divergence]))
        if task.gradients:
            gradient = gradient if slope is None else gradient.mul_(slope)
            part.copy_(gradient.mul_(factors[some, None]))
    return torch.cat(found, dim=1)


def _diverge(
    values: Tensor, targets: Tensor, base: TopK, weights: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return nll and divergence [n] of rows of (capped) logits, and the gradient of their weighted sum [n, V].

    With q the base's probabilities, p the model's and r the lump of tokens that are not kept, the divergence is
    sum over kept k of q_k log(q_k / p_k), plus q_r log(q_r / p_r). Its derivative by the logit of a kept token is
    p_k - q_k, by that of another v it is p_v (1 - q_r / p_r).
    """
    weight, kl = weights
    ids, place = base.ids.long(), targets[:, None]
    total = values.logsumexp(dim=1, keepdim=True)
    nll = (total - values.gather(1, place)).squeeze(1)
    logp, q = values.gather(1, ids) - total, base.logp.exp()
    shares = torch.exp(values - total).scatter_(1, ids, 0)  # of the lump alone, so that its sum is exact where small
    p_rest = shares.sum(dim=1).clamp_min(torch.finfo(values.dtype).tiny)
    q_rest = (1 - q.sum(dim=1)).clamp_min(0) if ids.shape[1] < values.shape[1] else torch.zeros_like(p_rest)
    divergence = (q * (base.logp - logp)).sum(dim=1) + torch.xlogy(q_rest, q_rest) - q_rest * p_rest.log()
    gradient = shares.mul_((weight + kl * (1 - q_rest / p_rest))[:, None])
    gradient.scatter_(1, ids, (weight + kl) * logp.exp() - kl * q)
    return nll, divergence, gradient.scatter_(1, place, gradient.gather(1, place) - weight)
