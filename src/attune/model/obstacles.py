"""Why a flash kernel cannot serve a model here, if it cannot: the device, the precision, the heads, a failed trial."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from attune.model import flash
from attune.model.exact import attend_exactly

LENGTHS, KEY_LENGTHS = (200, 130, 1, 70), (200, 330, 201, 70)  # of the trial: the second and third see the first
INSTALL = 'pip install "attune-sft[flash]"'
TOLERANCE = 0.02  # relative error of outputs and gradients in bfloat16; torch's own kernel stays under half of it


@dataclass(frozen=True, slots=True)
class Heads:
    """A model's attention heads: their width (0: not known), query heads per key head, and the window, if any."""

    width: int
    groups: int
    window: int | None


def heads_of(config: Any) -> Heads:
    """Return what a transformers config says of its heads."""
    number, hidden = getattr(config, "num_attention_heads", None), getattr(config, "hidden_size", None)
    width = getattr(config, "head_dim", None) or (hidden // number if number and hidden else 0)
    keys = getattr(config, "num_key_value_heads", None) or number
    return Heads(width, number // keys if number and keys else 1, getattr(config, "sliding_window", None))


def varlen_obstacle(device: str, dtype: torch.dtype, config: Any) -> str | None:
    """Say why torch's FlashAttention-2 cannot serve this model, or None if it can."""
    if device != "cuda":
        return f"device is {device}"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"precision is {str(dtype).removeprefix('torch.')}, the kernel needs 16 bits"
    if getattr(config, "attn_logit_softcapping", None):
        return "the model caps attention logits"
    heads = heads_of(config)
    if heads.width % 8 or heads.width > 256:
        return f"the model's heads are {heads.width} wide, the kernel needs a multiple of 8 up to 256"
    return None


def flash4_obstacle(device: str, dtype: torch.dtype, config: Any) -> str | None:
    """Say why FlashAttention-4 cannot serve this model, or None if it can and a trial of it came out right."""
    if obstacle := varlen_obstacle(device, dtype, config):
        return obstacle
    heads = heads_of(config)
    if not 0 < heads.width <= 128:
        return f"the model's heads are {heads.width or 'of unknown width'}, FlashAttention-4 is used up to 128"
    if torch.cuda.get_device_capability()[0] < 9:
        return "the device is older than compute capability 9.0"
    if not has_flash4():
        return f"FlashAttention-4 is not installed: {INSTALL}"
    return trial(flash.FLASH4, heads, dtype, torch.device(device))


def has_flash4() -> bool:
    """Whether FlashAttention-4 can be found; another package of its name brings only older ones."""
    try:
        return find_spec("flash_attn.cute") is not None
    except ModuleNotFoundError:
        return False


@cache
def trial(name: str, heads: Heads, dtype: torch.dtype, device: torch.device) -> str | None:
    """Say what is wrong with a kernel on a small batch with shared keys, forward and backward, or None.

    Compared with exact attention in float32. FlashAttention-4 is young and has been wrong for some shapes (its issues
    2194, 2562 and 2623), so it is tried in the shape that is going to be used.
    """
    try:
        error = _largest_error(name, heads, dtype, device)
    except Exception as fault:  # whatever an optional kernel raises, the other one is there
        return f"{name} failed a trial: {type(fault).__name__}: {' '.join(str(fault).split())[:200]}"
    if not error < TOLERANCE:
        return f"{name} failed a trial: its error is {error:.2g} for heads {heads.width} wide, above {TOLERANCE}"
    return None


def _largest_error(name: str, heads: Heads, dtype: torch.dtype, device: torch.device) -> float:
    """Return the largest relative error of a kernel's output and gradients; nan if one is not finite."""
    window, scale = heads.window and min(heads.window, 100), heads.width**-0.5
    layout, places = _trial_layout(scale, window, device)
    source = torch.Generator().manual_seed(0)
    q, k, v, grad = (
        torch.randn(401, number, heads.width, generator=source).to(device, dtype)
        for number in (2 * heads.groups, 2, 2, 2 * heads.groups)
    )
    out, lse = flash.forward(q, k, v, layout, name=name)
    grads = flash.backward(grad, (q, k, v), (out, lse), layout, name=name)
    with torch.enable_grad():
        leaves = [part.detach().float().requires_grad_() for part in (q, k, v)]
        query, key, value = (part.transpose(0, 1)[None] for part in leaves)
        exact = attend_exactly(
            query, key[:, :, places], value[:, :, places], lengths=LENGTHS, key_lengths=KEY_LENGTHS,
            scale=scale, window=window,
        )[0].transpose(0, 1)  # fmt: skip
        wanted = torch.autograd.grad(exact, leaves, grad.float())
    return max((_error(mine, one) for mine, one in zip((out, *grads), (exact, *wanted), strict=True)), key=_badness)


def _trial_layout(scale: float, window: int | None, device: torch.device) -> tuple[flash.Layout, Tensor]:
    """Return the documents of the trial, and its keys' places."""
    first = torch.arange(200)
    places = torch.cat([first, first, torch.arange(200, 330), first, torch.arange(330, 401)])
    order = torch.argsort(places, stable=True)
    starts = torch.searchsorted(places[order], torch.arange(402)).int()
    offsets, kv_offsets = (torch.tensor([0, *one]).cumsum(0).int().to(device) for one in (LENGTHS, KEY_LENGTHS))
    places = places.to(device)
    layout = flash.Layout(
        offsets, kv_offsets, 256, 384, scale, window,
        kv_index=places, kv_order=order.to(device), kv_starts=starts.to(device),
    )  # fmt: skip
    return layout, places


def _badness(error: float) -> float:
    """Order errors with nan as the largest."""
    return math.inf if math.isnan(error) else error


def _error(mine: Tensor, other: Tensor) -> float:
    """Return how far `mine` is from `other`, relative to the size of `other`; nan if it is not finite."""
    return float((mine.detach().float() - other.detach()).norm() / other.detach().norm())
