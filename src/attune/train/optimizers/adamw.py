"""AdamW for weights of any precision: one pass, small states, and no update where the gradient is not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from attune.model.kernels.adamw import BLOCK, Numbers, Slot, update

EPS = 1e-8
SMALLEST_8_BIT = 4096  # values; the moments of smaller weights stay float32, as they cost nothing


class AdamW(torch.optim.Optimizer):
    """AdamW whose update takes a clip factor and a flag on the device.

    `bits`: 32 or 8, of each moment (8: Dettmers et al. 2021, arXiv 2110.02861, with the codes of `quantise_mean` and
    `quantise_square`); `rounding`: as train.rounding; `seed`: of stochastic rounding.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        betas: tuple[float, float],
        bits: int = 32,
        rounding: str = "master",
        seed: int = 0,
    ) -> None:
        super().__init__(list(groups), {"lr": 0.0, "betas": betas, "eps": EPS, "weight_decay": 0.0})
        self.bits, self.rounding = bits, rounding
        weights = [weight for group in self.param_groups for weight in group["params"]]
        self._seeds = {
            weight: (seed * 0x10001 + 0x85EBCA6B * (place + 1)) & 0xFFFFFFFF for place, weight in enumerate(weights)
        }

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every weight that has a gradient."""
        assert closure is None, "the loss is computed once"
        self.update(None, None)

    @torch.no_grad()
    def update(self, factor: Tensor | None, finite: Tensor | None) -> None:
        """Update with gradients times `factor` (scalar); nothing changes where `finite` (scalar, bool) is false."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            slots = [self._slot(weight) for weight in weights]
            done = 1 if finite is None else finite.to(torch.float32)
            torch._foreach_add_([slot.step for slot in slots], done)
            beta1, beta2 = group["betas"]
            numbers = Numbers(group["lr"], beta1, beta2, group["eps"], group["weight_decay"])
            update(slots, numbers, factor=factor, finite=finite)

    def _slot(self, weight: Tensor) -> Slot:
        """Return a weight with its gradient and state; the state starts at zero."""
        assert weight.grad is not None
        state = self.state[weight]
        if not state:
            state.update(self._start(weight))
        return Slot(
            weight=weight,
            grad=weight.grad,
            step=state["step"],
            exp_avg=state["exp_avg"],
            exp_avg_sq=state["exp_avg_sq"],
            exp_avg_scale=state.get("exp_avg_scale"),
            exp_avg_sq_scale=state.get("exp_avg_sq_scale"),
            low=state.get("low"),
            seed=self._seeds[weight],
        )

    def _start(self, weight: Tensor) -> dict[str, Tensor]:
        """Return the state of a weight that was never updated: zeros."""
        wide = torch.promote_types(weight.dtype, torch.float32)
        eight = self.bits == 8 and weight.numel() >= SMALLEST_8_BIT
        state = {
            "step": torch.zeros((), dtype=torch.float32, device=weight.device),
            "exp_avg": torch.zeros_like(weight, dtype=torch.int8 if eight else wide),
            "exp_avg_sq": torch.zeros_like(weight, dtype=torch.uint8 if eight else wide),
        }
        if eight:
            blocks = -(-weight.numel() // BLOCK)
            state["exp_avg_scale"] = torch.zeros(blocks, dtype=wide, device=weight.device)
            state["exp_avg_sq_scale"] = torch.zeros(blocks, dtype=wide, device=weight.device)
        if weight.dtype == torch.bfloat16 and self.rounding == "master":
            state["low"] = torch.zeros_like(weight, dtype=torch.int16)
        return state
