"""Cross entropy of each row of logits, and its gradient written over them: a Triton kernel and its twin in torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from attune.config import TrainConfig
from attune.model.kernels import runs

_BLOCK = 4096  # columns that one program reads at once
_BYTES = 2**26  # of the copy in the twin's precision that is held at once


@dataclass(frozen=True, slots=True)
class LossOptions:
    """What is minimised for each learned token; the default is its negative log-likelihood.

    With probability p of the target, label smoothing e and vocabulary V, the loss of a token is
    a * ((1 - e) * -log p + e * mean over V of -log p_v) + z_loss * log(sum of exp logits)^2,
    where a is 1 for nll and p, held constant, for dft.
    Source: label smoothing, Szegedy et al. 2016, arXiv 1512.00567; dft, Wu et al. 2025, arXiv 2508.05629; z-loss,
    Chowdhery et al. 2022, arXiv 2204.02311.
    """

    kind: Literal["nll", "dft"] = "nll"
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    fused: bool = True  # whether the Triton kernel may run; its twin does where it may not or cannot

    @classmethod
    def of(cls, config: TrainConfig) -> LossOptions:
        """Return the options that the settings ask for."""
        return cls(config.loss, config.label_smoothing, config.z_loss, fused=config.kernels != "plain")


@dataclass(frozen=True, slots=True)
class RowLosses:
    """What is known of each row, [N] in float32 (float64 for float64 logits), neither weighted nor scaled.

    losses: with all options; nll: plain, in nats; correct: 1 where the target is ranked first, the first of equals.
    """

    losses: Tensor
    nll: Tensor
    correct: Tensor


def has_kernel(tensor: Tensor, options: LossOptions) -> bool:
    """Whether the kernel handles this tensor; it computes in float32, so float64 is left to the twin."""
    return options.fused and tensor.dtype != torch.float64 and runs(tensor)


@torch.no_grad()
def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor | None,
    options: LossOptions,
    *,
    softcap: float | None = None,
    scale: float = 1.0,
    gradients: bool = True,
) -> RowLosses:
    """Return the losses of rows; with `gradients` the logits become the gradient of scale * sum(weight * loss).

    logits: [N, V], the rows may lie apart; targets: int64 [N], each a column; weights: [N], None for ones. `softcap`
    is what the head does to its logits first, cap * tanh(logit / cap). Everything is computed in float32 (float64 for
    float64 logits) and rounded once, when the gradient is stored.
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    factors = torch.full(targets.shape, scale, dtype=wide, device=logits.device)
    if weights is not None:
        factors = factors * weights.to(wide)
    if not has_kernel(logits, options):
        return _twin(logits, targets, factors, options, softcap=softcap, gradients=gradients)
    assert logits.stride(1) == 1, "the columns of a row lie side by side"
    rows, columns = logits.shape
    result = RowLosses(*(torch.empty(rows, dtype=torch.float32, device=logits.device) for _ in range(3)))
    if rows:
        block = min(_BLOCK, max(128, 1 << (columns - 1).bit_length()))
        _kernel()[(rows,)](
            logits, targets, factors, result.losses, result.nll, result.correct, logits.stride(0),
            COLUMNS=columns, GRADIENTS=gradients, DFT=options.kind == "dft",
            SMOOTHING=float(options.label_smoothing), Z_LOSS=float(options.z_loss), CAP=float(softcap or 0),
            BLOCK=block, num_warps=max(block // 512, 4),
        )  # fmt: skip
    return result


def _twin(
    logits: Tensor,
    targets: Tensor,
    factors: Tensor,
    options: LossOptions,
    *,
    softcap: float | None,
    gradients: bool,
) -> RowLosses:
    """The same in plain torch, some rows at a time; `factors` [N] are the weights times the scale."""
    wide = factors.dtype
    size = max(1, _BYTES // (logits.shape[1] * wide.itemsize))
    parts = []
    for part, chosen, factor in zip(logits.split(size), targets.split(size), factors.split(size), strict=True):
        values, slope = part.to(wide), None
        correct = values.argmax(dim=1) == chosen
        if softcap:
            values = torch.tanh(values / softcap)
            slope = 1 - values * values  # of cap * tanh(x / cap)
            values = values * softcap
        rows, gradient = _twin_rows(values, chosen, options, gradients=gradients)
        parts.append(torch.stack([*rows, correct.to(wide)]))
        if gradient is not None:
            gradient = gradient if slope is None else gradient.mul_(slope)
            part.copy_(gradient.mul_(factor[:, None]))
    return RowLosses(*torch.cat(parts, dim=1))


def _twin_rows(
    values: Tensor, targets: Tensor, options: LossOptions, *, gradients: bool
) -> tuple[tuple[Tensor, Tensor], Tensor | None]:
    """Return the losses and plain losses of some rows, and the gradient by the (capped) logits `values` if asked."""
    smoothing, place = options.label_smoothing, targets[:, None]
    log_shares = F.log_softmax(values, dim=1)
    nll = -log_shares.gather(1, place).squeeze(1)
    losses = nll
    if smoothing:
        losses = (1 - smoothing) * nll - smoothing * log_shares.mean(dim=1)
    dft = torch.exp(-nll) if options.kind == "dft" else None
    if dft is not None:
        losses = losses * dft
    log_total = nll + values.gather(1, place).squeeze(1)
    if options.z_loss:
        losses = losses + options.z_loss * log_total.square()
    if not gradients:
        return (losses, nll), None
    gradient = log_shares.exp_()  # of log_total: the shares
    if dft is not None:
        gradient = gradient.mul_(dft[:, None] + 2 * options.z_loss * log_total[:, None])
    elif options.z_loss:
        gradient = gradient.mul_(1 + 2 * options.z_loss * log_total[:, None])
    pull = torch.ones_like(nll) if dft is None else dft
    if smoothing:
        gradient.sub_(smoothing / values.shape[1] * pull[:, None])
    return (losses, nll), gradient.scatter_add_(1, place, -(1 - smoothing) * pull[:, None])


@cache
def _kernel() -> Any:
    """Return the kernel; made at first use, because Triton may be absent."""
    import triton
    import triton.language as tl

    @triton.jit
    def rows_kernel(
        logits, targets, factors, losses, nlls, corrects, stride,
        COLUMNS: tl.constexpr, GRADIENTS: tl.constexpr, DFT: tl.constexpr,
        SMOOTHING: tl.constexpr, Z_LOSS: tl.constexpr, CAP: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        """One program reads one row for the sums, then backwards, as its end is cached, to write the gradient."""
        row = tl.program_id(0).to(tl.int64)
        start = logits + row * stride  # 64 bits: N * V passes 2**31
        target = tl.load(targets + row)
        chosen = tl.load(start + target).to(tl.float32)
        highest = tl.full((), float("-inf"), tl.float32)
        total = tl.zeros((), tl.float32)  # of exp(value - highest)
        plain = tl.zeros((), tl.float32)  # of the values
        ahead = tl.zeros([BLOCK], tl.int32)  # logits ranked before the target
        for first in range(0, COLUMNS, BLOCK):
            column = first + tl.arange(0, BLOCK)
            inside = column < COLUMNS
            values = tl.load(start + column, mask=inside, other=float("-inf")).to(tl.float32)
            ahead += ((values > chosen) | ((values == chosen) & (column < target))).to(tl.int32)
            if CAP > 0:
                values = tl.where(inside, CAP * (2 / (1 + tl.exp(-2 * values / CAP)) - 1), float("-inf"))
            if SMOOTHING > 0:
                plain += tl.sum(tl.where(inside, values, 0.0), axis=0)
            before = highest
            highest = tl.maximum(before, tl.max(values, axis=0))
            total = total * tl.exp(before - highest) + tl.sum(tl.exp(values - highest), axis=0)
        log_total = highest + tl.log(total)
        chosen = CAP * (2 / (1 + tl.exp(-2 * chosen / CAP)) - 1) if CAP > 0 else chosen
        nll = log_total - chosen
        pull = tl.exp(-nll) if DFT else tl.full((), 1.0, tl.float32)
        loss = (1 - SMOOTHING) * nll + SMOOTHING * (log_total - plain / COLUMNS)
        tl.store(losses + row, pull * loss + Z_LOSS * log_total * log_total)
        tl.store(nlls + row, nll)
        tl.store(corrects + row, (tl.sum(ahead, axis=0) == 0).to(tl.float32))
        if GRADIENTS:
            factor = tl.load(factors + row)
            push = pull + 2 * Z_LOSS * log_total
            for done in range(0, COLUMNS, BLOCK):
                column = (COLUMNS - 1) // BLOCK * BLOCK - done + tl.arange(0, BLOCK)
                inside = column < COLUMNS
                values = tl.load(start + column, mask=inside, other=0.0).to(tl.float32)
                slope = tl.full((), 1.0, tl.float32)
                if CAP > 0:
                    values = 2 / (1 + tl.exp(-2 * values / CAP)) - 1
                    slope = 1 - values * values
                    values = CAP * values
                gradient = push * tl.exp(values - log_total) - pull * (SMOOTHING / COLUMNS)
                # the target's share is taken off before rounding, so that p near 1 keeps its digits
                gradient -= tl.where(column == target, pull * (1 - SMOOTHING), 0.0)
                tl.store(start + column, (factor * slope * gradient).to(logits.dtype.element_ty), mask=inside)

    return rows_kernel
