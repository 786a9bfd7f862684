"""The engine: what makes a loaded model train fast on its device, each part proven against the plain one first."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from attune.config import Config
from attune.errors import ConfigError
from attune.model.attention import PER_ROW, Documents, attention_of
from attune.model.block import fuse_layer, fuse_norm, obstacle_of, unfuse
from attune.model.checkpointing import decoder_layers, has_own_forward
from attune.model.head import narrow
from attune.model.load import compile_layers

COMPILE_FROM = 200  # steps: in shorter runs compiling takes longer than it saves
_PROBE = (5, 1, 18, 8)  # tokens of the documents on which a fused layer is compared with the plain one
# How far both may differ, as a share: a few roundings of what they compute in. One wrong token is far beyond.
_FP8_TOLERANCE = 0.12  # one 16-bit rounding that differs turns 8-bit ones: 0.04 to 0.06 were measured
_INPUT = "input"
_SMALL = 0.1  # a gradient that is less than this part of all is judged as if it were: rounding may be most of it
_TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-3, torch.bfloat16: 4e-2, torch.float16: 1e-2}


def tune_up(model: nn.Module, config: Config) -> tuple[str, ...]:
    """Make `model`, with its adapter and on its device, train as fast as `config` allows; return what was chosen.

    Raises ConfigError when the config asks for what this model or device cannot do.
    """
    train, layers = config.train, decoder_layers(model)
    on_cuda = _is_on_cuda(model)
    if train.kernels == "fused" and train.compile is True:
        raise ConfigError("train.compile: fused layers are not compiled. Leave out train.compile or train.kernels.")
    obstacle = _why_plain(model, config, layers) if on_cuda or train.kernels == "fused" else "no CUDA device"
    if train.kernels == "fused" and obstacle:
        raise ConfigError(f"train.kernels: fused layers cannot run here: {obstacle}. Use train.kernels auto.")
    if obstacle is None and (difference := _fuse(model, layers, config)):
        if train.kernels == "fused":
            raise ConfigError(f"train.kernels: {difference}. Use train.kernels plain.")
        obstacle = difference
    if obstacle is None:
        return (f"fused layers: {len(layers)}, proven equal to those of transformers",)
    steps = 0 if train.steps == "auto" else train.steps
    pays = on_cuda and steps > COMPILE_FROM and layers and not has_dora(model)
    if train.compile is True or (train.compile == "auto" and pays):
        if compile_layers(model) == 0:
            raise ConfigError(
                f"train.compile: {type(model).__name__} has no layers that can be compiled by themselves.\n"
                "Leave it off."
            )
        why = "asked for" if train.compile is True else obstacle
        return (f"compiled layers: {len(layers)} ({why})",)
    return (f"plain layers ({obstacle})",) if on_cuda else ()


def has_dora(model: nn.Module) -> bool:
    """Whether an adapter of `model` is DoRA, whose layers are compiled anew for each shape of a weight, in parts."""
    return any(any(getattr(part, "use_dora", {}).values()) for part in model.modules())


def _is_on_cuda(model: nn.Module) -> bool:
    return next(model.parameters()).device.type == "cuda"


def _why_plain(model: nn.Module, config: Config, layers: list[Any]) -> str | None:
    """Say why the layers of `model` stay as they are, or None if all can be fused."""
    if config.train.kernels == "plain" or config.train.compile is True:
        return "asked for"
    if attention_of(model) == PER_ROW or not layers:
        return f"{type(model).__name__} has no layers that attune knows"
    return next((text for text in map(obstacle_of, layers) if text), None)


def _fuse(model: nn.Module, layers: list[Any], config: Config) -> str | None:
    """Fuse all layers and the last norm and compare first and last layer with what they were; say what differs.

    Where something does, or fails, all is put back.
    """
    wrapped: Any = model
    inner = wrapped.get_base_model() if hasattr(model, "get_base_model") else wrapped
    body = inner.get_decoder()
    kernel, last = attention_of(model), len(layers) - 1
    for number in sorted(range(len(layers)), key=lambda number: number not in (0, last)):  # those that are proven first
        before = _outcome(layers[number], body, config.precision) if number in (0, last) else None
        fault = None
        try:
            fuse_layer(layers[number], kernel, is_last=number == last)
            if before is not None:
                fault = _difference(before, _outcome(layers[number], body, config.precision), config)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a kernel raises here, the plain layers are there
            fault = f"fails: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if fault:
            for layer in filter(has_own_forward, layers):
                unfuse(layer)
            return f"layer {number} computed by fused kernels {fault}"
    if hasattr(body, "norm") and hasattr(body.norm, "variance_epsilon"):
        fuse_norm(body.norm)
    narrow(body)
    return None


def _outcome(layer: Any, body: Any, precision: str) -> dict[str, Tensor]:
    """Return what a layer makes of a fixed random batch, and the gradients of its input and of what trains in it.

    What passes the layer by is in neither.
    """
    weight = next(layer.parameters())
    dtype = next((part.dtype for part in body.embed_tokens.parameters()), weight.dtype)
    source = torch.Generator().manual_seed(0)
    states, upper = (
        torch.randn(1, sum(_PROBE), int(body.config.hidden_size), generator=source).to(weight.device, dtype)
        for _ in range(2)
    )
    places = torch.cat([torch.arange(length) for length in _PROBE])[None].to(weight.device)
    offsets = torch.tensor([0, *torch.tensor(_PROBE).cumsum(0)], dtype=torch.int32, device=weight.device)
    documents = Documents(offsets, _PROBE, max(_PROBE), offsets, _PROBE, max(_PROBE))
    trained = {name: part for name, part in layer.named_parameters() if part.requires_grad}
    mixed = torch.autocast(weight.device.type, dtype=torch.bfloat16, enabled=precision == "mixed")
    with torch.enable_grad(), mixed:
        angles = body.rotary_emb(states.requires_grad_(), position_ids=places)
        out = layer(states, position_embeddings=angles, position_ids=places, attention_mask=None, documents=documents)
        out = out[0] if isinstance(out, tuple) else out
        gradient, *grads = torch.autograd.grad(out, (states, *trained.values()), upper.to(out.dtype))
    return {"": out.detach() - states.detach(), _INPUT: gradient - upper, **dict(zip(trained, grads, strict=True))}


def _difference(one: dict[str, Tensor], two: dict[str, Tensor], config: Config) -> str | None:
    """Say by how much two outcomes differ, or None if only by rounding.

    What a layer adds was rounded together with what passes it by, of size 1: a layer may add so little that this
    rounding is most of the difference. The gradients of its weights know nothing of it.
    """
    sizes = {name: float(part.float().norm()) for name, part in one.items()}
    least = _SMALL * math.hypot(*(size for name, size in sizes.items() if name not in ("", _INPUT)))
    passing = float(torch.finfo(one[""].dtype).eps) * math.sqrt(one[""].numel())
    for name, left in one.items():
        right = two[name]
        allowed = _TOLERANCES[torch.bfloat16 if config.precision == "mixed" else one[""].dtype]
        allowed = max(allowed, _FP8_TOLERANCE) if config.train.fp8 else allowed
        size, rounding = (sizes[name], passing) if name in ("", _INPUT) else (max(sizes[name], least), 0.0)
        wide = torch.promote_types(left.dtype, torch.float32)
        distance = max(float((left.to(wide) - right.to(wide)).norm()) - rounding, 0.0) / max(size, 1e-12)
        if not distance <= allowed:  # NaN is a difference
            where = f"the gradient of {name}" if name else "its output"
            return f"differs in {where} by {distance:.2g} (allowed {allowed:g})"
    return None
