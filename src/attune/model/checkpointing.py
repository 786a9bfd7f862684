"""Activation checkpointing: some layers keep only their input and compute the rest again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from attune.errors import ConfigError
from attune.model.offload import HostStore


def decoder_layers(model: nn.Module) -> list[GradientCheckpointingLayer]:
    """Return the layers that can be computed again, first to last."""
    return [part for part in model.modules() if isinstance(part, GradientCheckpointingLayer)]


def spread(count: int, layers: int) -> tuple[int, ...]:
    """Return which `count` of `layers` layers to choose, evenly spread: 2 of 6 are layers 0 and 3."""
    return tuple(number * layers // count for number in range(count))


def number_of(wish: str | int, *, layers: int) -> int:
    """Return how many of `layers` layers a train.checkpointing means. Raises: ConfigError when it asks for more."""
    count = {"none": 0, "auto": 0, "full": layers}[wish] if isinstance(wish, str) else wish
    if count > layers > 0:
        raise ConfigError(f"train.checkpointing: {count}, but the model has {layers} layers. Use full for all.")
    return count


def enable_checkpointing(model: nn.Module, wish: str | int, *, offload: bool = False) -> int:
    """Make some layers of `model` compute their activations again instead of storing them; return how many.

    `wish`: none, full or a number of layers (auto: none). Set as transformers sets it, so that its layers and ours obey
    alike: `gradient_checkpointing` on the layer, which holds while the model is in training mode. `offload`: what these
    layers store, their input, lies in host memory until it is needed.
    Raises: ConfigError when the model has fewer layers, or none that can be checkpointed, or offload has no layers.
    Source: Chen et al. 2016, arXiv 1604.06174.
    """
    layers = decoder_layers(model)
    count = number_of(wish, layers=len(layers))
    if wish not in ("none", "auto") and not layers:
        raise ConfigError(
            f"train.checkpointing: {wish}, but {type(model).__name__} has no layers that can be computed again.\n"
            "Use train.checkpointing none, and a smaller train.micro_tokens if memory is short."
        )
    if offload and not count:
        raise ConfigError(
            "train.offload: only what checkpointed layers store is kept in host memory, and none is checkpointed.\n"
            "Add train.checkpointing full, or leave train.offload off."
        )
    chosen = set(spread(count, len(layers))) if count else set()
    again = recompute(has_dropout=bool(dropout_in(model)), store=HostStore() if offload else None)
    for number, layer in enumerate(layers):
        layer.gradient_checkpointing = number in chosen
        if number in chosen:
            layer._gradient_checkpointing_func = again  # noqa: SLF001 - transformers' own switch is this attribute
            _obey(layer, again)
    return count


def has_own_forward(layer: nn.Module) -> bool:
    """Whether a layer's forward is not that of its class: it was replaced by a fused one."""
    return "forward" in vars(layer)


def _obey(layer: GradientCheckpointingLayer, again: Callable[..., Any]) -> None:
    """Make a replaced forward obey the layer's setting.

    transformers checks it around `__call__` up to 5.17 and around the class's own `forward` since, which a replaced one
    bypasses.
    """
    if not has_own_forward(layer) or type(layer).__call__ is not nn.Module.__call__:
        return
    stored = layer.forward

    def forward(*inputs: Any, **options: Any) -> Any:
        """Compute the layer, and while training keep only its inputs."""
        if not (layer.gradient_checkpointing and layer.training):
            return stored(*inputs, **options)
        return again(partial(stored, **options), *inputs)

    layer.forward = forward


def recompute(*, has_dropout: bool, store: HostStore | None = None) -> Callable[..., Any]:
    """Return a function that calls `function(*inputs)` and keeps only the inputs for the backward pass.

    Tensors that `function` closes over are kept as they are; with `store`, the inputs themselves go into it.
    """
    call = partial(checkpoint, use_reentrant=False, preserve_rng_state=has_dropout)
    if store is None:
        return call

    def with_store(function: Callable[..., Any], *inputs: Any) -> Any:
        """Save the inputs under the store's hooks; inside, torch's own hooks keep nothing at all."""
        with store.hooks():
            return call(function, *inputs)

    unseen: Callable[..., Any] = torch.compiler.disable(with_store)  # a compiler cannot look into such hooks
    return unseen


def dropout_in(model: nn.Module) -> str:
    """Return where `model` drops something at random while training, with its share; empty if nowhere."""
    for name, part in model.named_modules():
        rates: dict[str, Any] = {"p": part.p} if isinstance(part, nn.Dropout) else {}
        rates |= {key: value for key, value in vars(part).items() if key.endswith("dropout")}
        for key, rate in rates.items():
            if isinstance(rate, (int, float)) and rate > 0:
                return f"{name}.{key} = {rate:g}"
    return ""
