"""One AdamW update in one pass: clip factor, moments, master copy and the 16-bit weight; and its twin in plain torch.

A bfloat16 weight keeps small updates in one of two ways. `low`: 16 more bits beside each weight make it exactly a
float32 (weight bits * 2^16 + low, as integers). Stochastic rounding: up or down at random, right on average, by noise
that is a function of seed, step and place, so nothing is stored and a resumed run draws the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.adamw import adamw

from attune.model.kernels import runs

BLOCK = 256  # values of an 8-bit moment that share a scale
_TINY = 1.2e-38  # the inverse of less would overflow
_MASK = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9


@dataclass(frozen=True, slots=True)
class Numbers:
    """What all weights of one update have in common. `lr` is the rate of this step."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float


@dataclass(frozen=True, slots=True)
class Slot:
    """One weight with its gradient and state; all tensors but the scales have the weight's shape.

    step: float32 scalar, the number of this update. exp_avg, exp_avg_sq: moments, float32 (float64 for a float64
    weight), or int8 and uint8 with float32 scales [ceil(n / 256)]. low: int16, the lower half of a bfloat16 weight, or
    None. seed: of the noise of stochastic rounding.
    """

    weight: Tensor
    grad: Tensor
    step: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    exp_avg_scale: Tensor | None
    exp_avg_sq_scale: Tensor | None
    low: Tensor | None
    seed: int


def update(slots: Sequence[Slot], numbers: Numbers, *, factor: Tensor | None, finite: Tensor | None) -> None:
    """Update weights and state in place with gradients times `factor`; nothing at all where `finite` is false.

    factor, finite: scalars on the device, None for 1 and true. The kernel does it where it runs; float64 and weights
    that do not lie in one piece are left to the twin.
    """
    fast = [slot for slot in slots if _suits(slot)]
    slow = [slot for slot in slots if not _suits(slot)]
    if slow:
        update_twin(slow, numbers, factor=factor, finite=finite)
    if fast:
        from attune.model.kernels.adamw_triton import launch

        one = torch.ones((), device=fast[0].weight.device)
        launch(
            fast,
            numbers,
            factor=one if factor is None else factor.float(),
            finite=one if finite is None else finite.float(),
        )


def _suits(slot: Slot) -> bool:
    """Whether the kernel can update this weight."""
    return (
        runs(slot.weight)
        and {slot.weight.dtype, slot.grad.dtype} <= {torch.float32, torch.bfloat16}
        and slot.weight.is_contiguous()
        and slot.grad.is_contiguous()
    )


def update_twin(slots: Sequence[Slot], numbers: Numbers, *, factor: Tensor | None, finite: Tensor | None) -> None:
    """Update weights and state in place with gradients times `factor`; nothing at all where `finite` is false.

    Plain torch, weight by weight, in float32 or better: what the kernel must equal. Reads `finite` on the host.
    Source: Loshchilov and Hutter, arXiv 1711.05101.
    """
    if finite is not None and not bool(finite):
        return
    for slot in slots:
        wide = torch.promote_types(slot.weight.dtype, torch.float32)
        weight = widen(slot.weight, slot.low)
        grad = slot.grad.to(wide) if factor is None else slot.grad.to(wide) * factor.to(wide)
        step = slot.step - 1  # torch counts for itself
        mean, square = read_moments(slot)
        adamw(
            [weight], [grad], [mean], [square], [], [step],
            fused=True, amsgrad=False, maximize=False, lr=numbers.lr, beta1=numbers.beta1, beta2=numbers.beta2,
            eps=numbers.eps, weight_decay=numbers.weight_decay,
        )  # fmt: skip
        _write_moments(slot, mean, square)
        if weight is not slot.weight:
            keep_weight(slot.weight, slot.low, weight, seed=slot.seed, step=slot.step)


def widen(weight: Tensor, low: Tensor | None) -> Tensor:
    """Return a weight in the precision it is updated in: exactly float32 for bfloat16 with its lower half.

    A float32 or float64 weight is returned itself, not copied.
    """
    if weight.dtype != torch.bfloat16:
        return weight
    if low is None:
        return weight.float()
    return ((weight.view(torch.int16).to(torch.int32) << 16) + low).view(torch.float32)


def split(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return float32 values as the nearest bfloat16 (ties away from zero: so the rest fits) and the rest, int16."""
    bits = values.view(torch.int32)
    high = (bits + 0x8000) >> 16
    return high.to(torch.int16).view(torch.bfloat16), (bits - (high << 16)).to(torch.int16)


def round_at_random(values: Tensor, noise: Tensor) -> Tensor:
    """Return float32 values as one of their two bfloat16 neighbours, the nearer more often; noise: int64 bits."""
    bits = values.view(torch.int32) + (noise & 0xFFFF).to(torch.int32)
    return (bits >> 16).to(torch.int16).view(torch.bfloat16)


def draw_bits(like: Tensor, *, seed: int, step: Tensor) -> Tensor:
    """Return 32 random bits for each value of `like`, int64: a function of seed, step and place alone."""
    place = torch.arange(like.numel(), device=like.device).reshape(like.shape) & _MASK
    key = mix_bits((seed ^ (step.to(torch.int64) * _GOLDEN)) & _MASK)
    return mix_bits((mix_bits(place ^ key) + seed) & _MASK)


def mix_bits(x: Tensor) -> Tensor:
    """Return 32-bit integers (in int64) scrambled, one to one; Source: Wellons 2018, hash `lowbias32`."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _MASK
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def quantise_mean(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return means as int8 in their shape, and the largest size of each block of 256 [ceil(n / 256)].

    The code is 127 times the signed square root of the share of the largest, so that small means keep a direction.
    """
    blocks = _blocks(values)
    top = blocks.abs().amax(1)
    share = blocks.abs() * _inverse(top)[:, None]
    code = torch.floor(127 * share.sqrt() + 0.5) * blocks.sign()
    return code.to(torch.int8).flatten()[: values.numel()].view(values.shape), top


def quantise_square(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean squares as uint8 in their shape, and the largest of each block of 256 [ceil(n / 256)].

    The code is 255 times the fourth root of the share of the largest, and never 0 for what is above 0: an update
    divided by a square that was lost would be far too long.
    """
    blocks = _blocks(values)
    top = blocks.amax(1)
    share = blocks * _inverse(top)[:, None]
    code = torch.floor(255 * share.sqrt().sqrt() + 0.5).clamp(min=1) * (blocks > 0)
    return code.to(torch.uint8).flatten()[: values.numel()].view(values.shape), top


def restore_mean(code: Tensor, top: Tensor) -> Tensor:
    """Return means from their 8 bits, in the type of `top`; the counterpart of `quantise_mean`."""
    share = code.to(top.dtype) / 127
    return share.square().copysign(share) * spread(top, code)


def restore_square(code: Tensor, top: Tensor) -> Tensor:
    """Return mean squares from their 8 bits, in the type of `top`; the counterpart of `quantise_square`."""
    return (code.to(top.dtype) / 255).square().square() * spread(top, code)


def _inverse(top: Tensor) -> Tensor:
    """Return 1 / top of each block; 0 for a block so small that this would overflow."""
    return torch.where(top > _TINY, 1 / torch.where(top > _TINY, top, 1), 0)


def _blocks(values: Tensor) -> Tensor:
    """Return values as [blocks, 256], filled up with zeros."""
    return functional.pad(values.flatten(), (0, -values.numel() % BLOCK)).view(-1, BLOCK)


def spread(top: Tensor, like: Tensor) -> Tensor:
    """Return each block's scale at every place of the block."""
    return top.repeat_interleave(BLOCK)[: like.numel()].view(like.shape)


def read_moments(slot: Slot) -> tuple[Tensor, Tensor]:
    """Return both moments in the precision they are updated in; a copy where they are kept in 8 bits."""
    if slot.exp_avg_scale is None or slot.exp_avg_sq_scale is None:
        return slot.exp_avg, slot.exp_avg_sq
    return (
        restore_mean(slot.exp_avg, slot.exp_avg_scale),
        restore_square(slot.exp_avg_sq, slot.exp_avg_sq_scale),
    )


def _write_moments(slot: Slot, mean: Tensor, square: Tensor) -> None:
    """Put updated moments back where they are kept."""
    if slot.exp_avg_scale is None or slot.exp_avg_sq_scale is None:
        return
    for kept, value in zip((slot.exp_avg, slot.exp_avg_scale), quantise_mean(mean), strict=True):
        kept.copy_(value)
    for kept, value in zip((slot.exp_avg_sq, slot.exp_avg_sq_scale), quantise_square(square), strict=True):
        kept.copy_(value)


def keep_weight(weight: Tensor, low: Tensor | None, values: Tensor, *, seed: int, step: Tensor) -> None:
    """Put updated values, in the precision of `widen`, back into a weight and its lower half, or round at random."""
    if weight.dtype != torch.bfloat16:
        weight.copy_(values)
    elif low is None:
        weight.copy_(round_at_random(values, draw_bits(values, seed=seed, step=step)))
    else:
        for kept, half in zip((weight, low), split(values), strict=True):
            kept.copy_(half)
