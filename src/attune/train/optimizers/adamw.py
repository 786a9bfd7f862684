"""AdamW for weights of any precision: one pass, small states, and no update where the gradient is not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from attune.model.kernels.adamw import Numbers, Slot, update_twin

EPS = 1e-8


class AdamW(torch.optim.Optimizer):
    """AdamW whose update takes a clip factor and a flag on the device. `rounding`: as train.rounding."""

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, betas: tuple[float, float], rounding: str, seed: int = 0
    ) -> None:
        super().__init__(list(groups), {"lr": 0.0, "betas": betas, "eps": EPS, "weight_decay": 0.0})
        self.rounding = rounding
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
            update_twin(slots, numbers, factor=factor, finite=finite)

    def _slot(self, weight: Tensor) -> Slot:
        """Return a weight with its gradient and state; the state starts at zero."""
        assert weight.grad is not None
        state = self.state[weight]
        if not state:
            wide = torch.promote_types(weight.dtype, torch.float32)
            state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
            state["exp_avg"] = torch.zeros_like(weight, dtype=wide)
            state["exp_avg_sq"] = torch.zeros_like(weight, dtype=wide)
            if weight.dtype == torch.bfloat16 and self.rounding == "master":
                state["low"] = torch.zeros_like(weight, dtype=torch.int16)
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
