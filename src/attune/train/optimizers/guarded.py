"""The optimizer of attune: a rule for each group of weights, clipped and guarded on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from attune.train.optimizers.adamw import start_adamw, update_adamw
from attune.train.optimizers.muon import start_muon, update_muon
from attune.train.optimizers.weight import Entry, gradient_norm, start_state

RULES: dict[str, tuple[Callable[[Tensor], dict[str, Tensor]], Callable[..., None]]] = {
    "adamw": (partial(start_adamw, bits=32), update_adamw),
    "adamw_8bit": (partial(start_adamw, bits=8), update_adamw),
    "muon": (start_muon, update_muon),
}


class Guarded(torch.optim.Optimizer):
    """Updates weights by the rule their group names; takes a clip factor and a flag that stay on the device.

    A group: params, rule (a key of RULES), weight_decay. `rounding`: as train.rounding; `seed`: of its noise.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, betas: tuple[float, float], rounding: str, seed: int = 0
    ) -> None:
        super().__init__(list(groups), {"lr": 0.0, "betas": betas, "weight_decay": 0.0, "rule": "adamw"})
        self.rounding = rounding
        self.releases = False
        self._norms: list[Tensor] = []  # of the gradients released since the last `take_norm`
        weights = (weight for group in self.param_groups for weight in group["params"])
        self._seeds = {weight: (seed + 0x9E3779B9 * place) & 0xFFFFFFFF for place, weight in enumerate(weights, 1)}

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
            if weights:
                self._apply(group, weights, factor, finite)

    def release(self) -> None:
        """From now on update each weight inside the backward pass, as soon as its gradient is known, and free that.

        A weight whose gradient is not finite stays as it is; there is no clipping.
        """
        self.releases = True
        for group in self.param_groups:
            for weight in group["params"]:
                weight.register_post_accumulate_grad_hook(partial(self._release_one, group))

    def take_norm(self) -> Tensor:
        """Return the norm of all gradients released since the last call, a scalar."""
        norms, self._norms = self._norms, []
        return gradient_norm(norms)

    @torch.no_grad()
    def _release_one(self, group: dict[str, Any], weight: Tensor) -> None:
        assert weight.grad is not None
        norm = gradient_norm([weight.grad])
        self._norms.append(norm)
        self._apply(group, [weight], None, norm.isfinite())
        weight.grad = None

    def _apply(
        self, group: dict[str, Any], weights: Sequence[Tensor], factor: Tensor | None, finite: Tensor | None
    ) -> None:
        """Count and update weights of one group."""
        start, update = RULES[group["rule"]]
        entries = []
        for weight in weights:
            assert weight.grad is not None
            state = self.state[weight]
            if not state:
                state.update(start_state(weight, rounding=self.rounding) | start(weight))
            entries.append(Entry(weight, weight.grad, state, self._seeds[weight]))
        counts = [entry.state["step"] for entry in entries]
        # one number for each: given a single tensor, torch reads it on the host, which waits for the device
        torch._foreach_add_(counts, 1 if finite is None else [finite.to(torch.float32)] * len(counts))
        update(entries, group, factor=factor, finite=finite)
