"""The rule of AdamW: moments of 32 or 8 bits, for weights of any precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from attune.model.kernels.adamw import BLOCK, Numbers, Slot, update
from attune.train.optimizers.weight import Entry

EPS = 1e-8
SMALLEST_8_BIT = 4096  # values; the moments of smaller weights stay float32, as they cost nothing


def start_adamw(weight: Tensor, *, bits: int) -> dict[str, Tensor]:
    """Return the moments of a weight that was never updated: zeros of 32 (float64: 64) or 8 bits each."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    eight = bits == 8 and weight.numel() >= SMALLEST_8_BIT
    state = {
        "exp_avg": torch.zeros_like(weight, dtype=torch.int8 if eight else wide),
        "exp_avg_sq": torch.zeros_like(weight, dtype=torch.uint8 if eight else wide),
    }
    if eight:
        blocks = -(-weight.numel() // BLOCK)
        state["exp_avg_scale"] = torch.zeros(blocks, dtype=wide, device=weight.device)
        state["exp_avg_sq_scale"] = torch.zeros(blocks, dtype=wide, device=weight.device)
    return state


def update_adamw(
    entries: Sequence[Entry], group: Mapping[str, Any], *, factor: Tensor | None, finite: Tensor | None
) -> None:
    """Update weights with gradients times `factor`; nothing changes where `finite` is false.

    Source: Loshchilov and Hutter, arXiv 1711.05101; moments in 8 bits: Dettmers et al., arXiv 2110.02861, here with the
    codes of `quantise_mean` and `quantise_square`.
    """
    slots = [
        Slot(
            weight=entry.weight,
            grad=entry.grad,
            step=entry.state["step"],
            exp_avg=entry.state["exp_avg"],
            exp_avg_sq=entry.state["exp_avg_sq"],
            exp_avg_scale=entry.state.get("exp_avg_scale"),
            exp_avg_sq_scale=entry.state.get("exp_avg_sq_scale"),
            low=entry.state.get("low"),
            seed=entry.seed,
        )
        for entry in entries
    ]
    beta1, beta2 = group["betas"]
    numbers = Numbers(group["lr"], beta1, beta2, EPS, group["weight_decay"])
    update(slots, numbers, factor=factor, finite=finite)
