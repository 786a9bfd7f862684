"""Optimizers and learning-rate schedules; a schedule is a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from attune.config import TrainConfig

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


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Return fused AdamW over the trainable weights; weight decay acts on matrices only.

    Source: Loshchilov and Hutter, arXiv 1711.05101. The learning rate is set anew at every step.
    """
    trains = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trains if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trains if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=0.0, betas=(config.beta1, config.beta2), fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Make `rate` the learning rate of the next update."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def _moments(optimizer: torch.optim.Optimizer, model: nn.Module) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the name of each trainable weight with its optimizer state."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, optimizer.state[parameter]


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return the optimizer's state as flat named tensors: `weight name//moment`."""
    return {f"{name}//{key}": value for name, state in _moments(optimizer, model) for key, value in state.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put saved state back; the counterpart of `optimizer_tensors`."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            found = {key: value for key, value in tensors.items() if key.rpartition("//")[0] == name}
            optimizer.state[parameter] = {
                key.rpartition("//")[2]: value.to(parameter.device) for key, value in found.items()
            }
