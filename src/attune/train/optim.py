"""Optimizers and learning-rate schedules; a schedule is a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attune.config import TrainConfig
from attune.train.optimizers.adamw import AdamW

WSD_DECAY = 0.2  # the share of steps in which wsd falls to zero (Hu et al. 2024, arXiv 2404.06395, use 10-20 %)


def learning_rate_at(step: int, *, steps: int, peak: float, schedule: str, warmup: float) -> float:
    """Return the learning rate of `step` (from 1 to `steps`).

    Warm-up rises linearly to `peak` over `warmup` steps (a share of all steps if below 1). After it: constant; linear
    or cosine to zero, reached just after the last step, so that no step is wasted; wsd: constant, then linear to zero
    over the last fifth.
    """
    warm = math.ceil(warmup * steps) if warmup < 1 else min(int(warmup), steps)
    if step <= warm:
        return peak * step / warm
    done = (step - 1 - warm) / max(steps - warm, 1)  # 0 at the first step after warm-up, 1 just after the last
    if schedule == "constant":
        return peak
    if schedule == "linear":
        return peak * (1 - done)
    if schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * done))
    assert schedule == "wsd", schedule
    left = (steps - step + 1) / max(WSD_DECAY * steps, 1)
    return peak * min(1.0, left)


def build_optimizer(model: nn.Module, config: TrainConfig, *, seed: int = 0) -> torch.optim.Optimizer:
    """Return the optimizer that `config` names, over the trainable weights; weight decay acts on matrices only.

    The learning rate is set anew at every step; `seed` is that of stochastic rounding.
    Source: Loshchilov and Hutter, arXiv 1711.05101.
    """
    trains = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trains if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trains if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    betas = (config.beta1, config.beta2)
    if all(p.dtype in (torch.float32, torch.float64) and not p.is_cuda for p in trains):
        return torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=True)
    return AdamW(groups, betas=betas, rounding=config.rounding, seed=seed)


def clip_and_step(optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor], clip: float) -> Tensor:
    """Update once with gradients scaled down to a norm of at most `clip`; return the norm they had, a scalar.

    The host is never asked: where the norm is not finite, no weight and no moment changes, and the caller finds out
    when it reads the norm.
    """
    weights = [weight for weight in parameters if weight.grad is not None]
    if isinstance(optimizer, AdamW):
        norm = gradient_norm([weight.grad for weight in weights if weight.grad is not None])
        optimizer.update((clip / (norm + 1e-6)).clamp(max=1.0), norm.isfinite())
        return norm
    norm = nn.utils.clip_grad_norm_(weights, clip)
    if isinstance(optimizer, torch.optim.AdamW):
        optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined] # as torch's GradScaler does
        optimizer.step()
        del optimizer.found_inf  # type: ignore[attr-defined]
    elif bool(norm.isfinite()):
        optimizer.step()
    return norm


def gradient_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean norm of all gradients together, a scalar summed in float32 or better."""
    if not gradients:
        return torch.zeros(())
    kinds: dict[torch.dtype, list[Tensor]] = {}
    for gradient in gradients:
        kinds.setdefault(gradient.dtype, []).append(gradient)
    norms: list[Tensor] = []
    for dtype, group in kinds.items():
        norms += torch._foreach_norm(group, 2, dtype=torch.promote_types(dtype, torch.float32))  # noqa: SLF001 - the public one rounds each norm to the gradients' type
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Make `rate` the learning rate of the next update."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return the optimizer's state as flat named tensors: `weight name//moment`."""
    return {
        f"{name}//{key}": value
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        for key, value in optimizer.state[parameter].items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put saved state back; the counterpart of `optimizer_tensors`."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        weight, _, key = name.rpartition("//")
        found.setdefault(weight, {})[key] = value
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            state = found.get(name, {})
            optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in state.items()}
