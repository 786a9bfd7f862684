"""Which optimizer a config names, its one guarded step and its saved state; schedules are functions of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attune.config import NO_CLIP, TrainConfig
from attune.train.optimizers.guarded import RULES, Guarded
from attune.train.optimizers.muon import hidden_matrices
from attune.train.optimizers.weight import gradient_norm, start_state

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
    """
    assert config.clip >= NO_CLIP or not config.gradient_release, "a Config does not clip gradients that are released"
    trains = [p for p in model.parameters() if p.requires_grad]
    betas = (config.beta1, config.beta2)
    simple = config.optimizer == "adamw" and not config.gradient_release
    if simple and all(p.device.type == "cpu" and p.dtype != torch.bfloat16 for p in trains):
        return torch.optim.AdamW(_groups(trains, config, "adamw"), lr=0.0, betas=betas, fused=True)
    inner = hidden_matrices(model) if config.optimizer == "muon" else set()
    groups = _groups([p for p in trains if p in inner], config, "muon")
    outer_rule = "adamw" if config.optimizer == "muon" else config.optimizer
    groups += _groups([p for p in trains if p not in inner], config, outer_rule)
    optimizer = Guarded(groups, betas=betas, rounding=config.rounding, seed=seed)
    if config.gradient_release:
        optimizer.release()
    return optimizer


def _groups(weights: Sequence[nn.Parameter], config: TrainConfig, rule: str) -> list[dict[str, Any]]:
    """Return weights in groups: matrices, which decay, and the rest; an empty group is left out."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in weights if p.ndim >= 2], "weight_decay": config.weight_decay, "rule": rule},
        {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0, "rule": rule},
    ]
    return [group for group in groups if group["params"]]


def state_bytes(model: nn.Module, config: TrainConfig) -> int:
    """Return how many bytes the optimizer will keep for the trainable weights of `model`, which may be on meta."""
    inner = hidden_matrices(model) if config.optimizer == "muon" else set()
    rest = "adamw" if config.optimizer == "muon" else config.optimizer
    total = 0
    for weight in model.parameters():
        if weight.requires_grad:
            shape = torch.empty_like(weight, device="meta")
            start, _ = RULES["muon" if weight in inner else rest]
            state = start_state(shape, rounding=config.rounding) | start(shape)
            total += sum(value.numel() * value.element_size() for value in state.values())
    return total


def clip_and_step(optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor], clip: float) -> Tensor:
    """Update once with gradients scaled down to a norm of at most `clip`; return the norm they had, a scalar.

    The host is never asked on cuda: where the norm is not finite, no weight and no moment changes, and the caller finds
    out when it reads the norm. Where gradients are released, all is done already and only the norm is returned.
    """
    if isinstance(optimizer, Guarded):
        if optimizer.releases:
            return optimizer.take_norm()
        norm = gradient_norm([weight.grad for weight in parameters if weight.grad is not None])
        optimizer.update((clip / (norm + 1e-6)).clamp(max=1.0), norm.isfinite())
        return norm
    norm = nn.utils.clip_grad_norm_(parameters, clip)
    if bool(norm.isfinite()):  # torch's own optimizers are for weights on the host
        optimizer.step()
    return norm


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
