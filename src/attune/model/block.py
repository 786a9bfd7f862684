"""A decoder layer of the Llama family computed by attune itself: few kernels, little stored, written out backward.

Of each token and layer these stay for the backward pass: the input of both halves, the packed queries, keys and values
with attention's output, and gate and up. The norms and the gated product are computed again, which costs one pass over
memory and saves a third of it. The layer is that of transformers; its parameters stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from attune.model.attention import Attended, Documents, attend, attend_backward
from attune.model.kernels.norm import rms_norm, rms_norm_backward
from attune.model.kernels.rotary import HeadNorms, Heads, rotate, rotate_backward, split
from attune.model.kernels.swiglu import swiglu, swiglu_backward
from attune.model.projection import Projection, is_plain_lora
from attune.model.stores import HoldsStore

# newer transformers wrap a layer's forward to compute it again, which ours replaces; older ones wrap its call
_FORWARD_CHECKPOINTS = "__call__" not in vars(GradientCheckpointingLayer)
FAMILY = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer")


@dataclass(frozen=True, slots=True)
class AttentionHalf:
    """x + attention(norm(x)): its weights and shape."""

    norm: Any
    query_key_value: Projection
    output: Projection
    heads: Heads
    head_norms: tuple[Any, Any] | None
    scale: float
    window: int | None
    kernel: str  # the attention that runs: exact, varlen or flash4

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """All tensors that may need a gradient: norm weights, then those of the two projections."""
        norms = (self.norm.weight, *(norm.weight for norm in self.head_norms or ()))
        return (*norms, *self.query_key_value.parameters, *self.output.parameters)

    def norms_of_heads(self) -> HeadNorms | None:
        """Return the norms of queries and keys as the rotary kernel takes them."""
        if self.head_norms is None:
            return None
        query, key = self.head_norms
        return HeadNorms(query.weight.detach(), key.weight.detach(), _eps(query))


@dataclass(frozen=True, slots=True)
class FeedForwardHalf:
    """x + down(silu(gate(norm(x))) * up(norm(x))): its weights."""

    norm: Any
    gate_up: Projection
    down: Projection

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """All tensors that may need a gradient: the norm's weight, then those of the two projections."""
        return (self.norm.weight, *self.gate_up.parameters, *self.down.parameters)


class _Attention(torch.autograd.Function):
    """The first half of a layer."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, angles: tuple[Tensor, Tensor], half: AttentionHalf, documents: Documents, *_: Tensor
    ) -> Tensor:
        dtype = _arithmetic(x)
        with torch.autocast(x.device.type, enabled=False):
            packed, low_in = half.query_key_value.times(_normed(x, half.norm, dtype))
            query, key, value = rotate(packed, *angles, heads=half.heads, norms=half.norms_of_heads())
            out, seen = attend(query, key, value, documents, scale=half.scale, window=half.window, name=half.kernel)
            result, low_out = half.output.times(out.flatten(1), add=x)
        ctx.save_for_backward(x, packed, out, seen.lse, low_in, low_out, *angles)
        ctx.half, ctx.documents = half, documents
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, packed, out, lse, low_in, low_out, *angles = ctx.saved_tensors
        half: AttentionHalf = ctx.half
        norms = half.norms_of_heads()
        with torch.autocast(x.device.type, enabled=False):
            upper = grad.contiguous()
            dy = upper.to(out.dtype)
            d_out, d_low = half.output.back(dy, low_out, needs_x=True)
            assert d_out is not None
            d_output = half.output.back_parameters(dy, out.flatten(1), low=low_out, d_low=d_low)
            query, key, value = split(packed, half.heads)
            if norms is not None:
                query, key, value = rotate(packed, *angles, heads=half.heads, norms=norms)
            seen = Attended(query, key, value, out, lse, ctx.documents, half.scale, half.window, half.kernel)
            d_heads = attend_backward(d_out.view(out.shape), seen)
            d_packed, *d_norms = rotate_backward(d_heads, *angles, heads=half.heads, norms=norms, packed=packed)
            dx, d_norm, d_inner = _back_through_norm(
                half.query_key_value, d_packed, low_in, x=x, norm=half.norm, upper=upper, needs=ctx.needs_input_grad[0]
            )
        return (dx, None, None, None, d_norm, *(d_norms if norms else ()), *d_inner, *d_output)


class _FeedForward(torch.autograd.Function):
    """The second half of a layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, half: FeedForwardHalf, *_: Tensor) -> Tensor:
        dtype = _arithmetic(x)
        with torch.autocast(x.device.type, enabled=False):
            both, low_in = half.gate_up.times(_normed(x, half.norm, dtype))
            result, low_out = half.down.times(swiglu(both), add=x)
        ctx.save_for_backward(x, both, low_in, low_out)
        ctx.half = half
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, both, low_in, low_out = ctx.saved_tensors
        half: FeedForwardHalf = ctx.half
        with torch.autocast(x.device.type, enabled=False):
            upper = grad.contiguous()
            dy = upper.to(both.dtype)
            d_product, d_low = half.down.back(dy, low_out, needs_x=True)
            assert d_product is not None
            d_both, product = swiglu_backward(d_product, both, needs_product=half.down.trains)
            d_down = (
                [None] * len(half.down.parameters)
                if product is None
                else half.down.back_parameters(dy, product, low=low_out, d_low=d_low)
            )
            dx, d_norm, d_inner = _back_through_norm(
                half.gate_up, d_both, low_in, x=x, norm=half.norm, upper=upper, needs=ctx.needs_input_grad[0]
            )
        return (dx, None, d_norm, *d_inner, *d_down)


def _back_through_norm(
    projection: Projection, dy: Tensor, low: Tensor | None, *, x: Tensor, norm: Any, upper: Tensor, needs: bool
) -> tuple[Tensor | None, Tensor | None, tuple[Tensor | None, ...]]:
    """Return the gradients of x, of the norm's weight and of the projection, for dy, that of projection(norm(x)).

    upper [T, H] is the gradient that reaches x past this half; it is in the first result.
    """
    weight: Tensor = norm.weight
    d_normed, d_low = projection.back(dy, low, needs_x=needs or weight.requires_grad)
    grads: tuple[Tensor | None, ...] = (None,) * len(projection.parameters)
    if projection.trains:
        grads = projection.back_parameters(dy, _normed(x, norm, dy.dtype), low=low, d_low=d_low)
    if d_normed is None:
        return None, None, grads
    dx, d_weight = rms_norm_backward(
        d_normed, x, weight, eps=_eps(norm), add=upper, needs_weight=weight.requires_grad
    )  # fmt: skip
    return dx, d_weight, grads


def _normed(x: Tensor, norm: Any, dtype: torch.dtype) -> Tensor:
    return rms_norm(x, norm.weight, eps=_eps(norm), dtype=dtype)


def _eps(norm: Any) -> float:
    return float(norm.variance_epsilon)


def _arithmetic(x: Tensor) -> torch.dtype:
    """Return the type in which products are computed: autocast's where it is on, else that of x."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class _FusedNorm(torch.autograd.Function):
    """The norm before the head, by the same kernel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return rms_norm(x, weight, eps=eps, dtype=x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        needs = ctx.needs_input_grad[1]
        dx, d_weight = rms_norm_backward(grad.contiguous(), x, weight, eps=ctx.eps, add=None, needs_weight=needs)
        return dx, d_weight, None


# torch types neither `apply` nor what it returns
_attention: Callable[..., Tensor] = _Attention.apply
_feed_forward: Callable[..., Tensor] = _FeedForward.apply
_fused_norm: Callable[..., Tensor] = _FusedNorm.apply


def obstacle_of(layer: nn.Module) -> str | None:
    """Say why a decoder layer cannot be computed by the fused form, or None if it can."""
    name = type(layer).__name__
    if name not in FAMILY:
        return f"{name} has no fused form"
    attention: Any = layer.self_attn
    if attention.attention_dropout or getattr(attention.config, "hidden_act", "silu") != "silu":
        return f"{name} has dropout or another activation than silu"
    for linear in _linears(layer):
        if hasattr(linear, "lora_A") and not is_plain_lora(linear):
            return "the adapter is not plain LoRA (dropout, DoRA or several adapters)"
        if not hasattr(linear, "lora_A") and type(linear) is not nn.Linear and not isinstance(linear, HoldsStore):
            return f"{name} has a layer of type {type(linear).__name__}"
    return None


def _linears(layer: Any) -> list[nn.Module]:
    attention, mlp = layer.self_attn, layer.mlp
    own = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
    return [*own, mlp.gate_proj, mlp.up_proj, mlp.down_proj]


def fuse_layer(layer: Any, kernel: str) -> None:
    """Make a decoder layer compute flat batches in the fused form with the given attention (exact, varlen, flash4).

    Its weights become views of fused ones, so do it when the model lies on its device and before an optimizer is made.
    Other calls (generation with a cache) go the usual way.
    """
    attention, mlp = layer.self_attn, layer.mlp
    query, key = attention.q_proj.out_features, attention.k_proj.out_features
    width = attention.head_dim
    half = AttentionHalf(
        norm=layer.input_layernorm,
        query_key_value=Projection([attention.q_proj, attention.k_proj, attention.v_proj]),
        output=Projection([attention.o_proj]),
        heads=Heads(query // width, key // width, width),
        head_norms=(attention.q_norm, attention.k_norm) if hasattr(attention, "q_norm") else None,
        scale=float(attention.scaling),
        window=_window_of(attention),
        kernel=kernel,
    )
    feed_forward = FeedForwardHalf(
        norm=layer.post_attention_layernorm,
        gate_up=Projection([mlp.gate_proj, mlp.up_proj]),
        down=Projection([mlp.down_proj]),
    )
    usual: Callable[..., Any] = layer.forward

    def forward(hidden_states: Tensor, **options: Any) -> Any:
        """Compute the layer; documents say that the batch is flat."""
        documents = options.get("documents")
        if documents is None:
            return usual(hidden_states, **options)
        cos, sin = options["position_embeddings"]

        def compute(states: Tensor) -> Tensor:
            """Compute both halves."""
            x = _attention(states[0], (cos[0], sin[0]), half, documents, *half.parameters)
            return _feed_forward(x, feed_forward, *feed_forward.parameters)[None]

        if _FORWARD_CHECKPOINTS and layer.gradient_checkpointing and layer.training:
            return layer._gradient_checkpointing_func(compute, hidden_states)  # noqa: SLF001 - its only name
        return compute(hidden_states)

    layer.forward = forward


def unfuse(part: Any) -> None:
    """Make a layer or norm compute as transformers wrote it again; fused weights stay where they are."""
    del part.forward


def fuse_norm(norm: Any) -> None:
    """Make an RMS norm of transformers compute in one kernel forward and one back."""

    def forward(hidden_states: Tensor) -> Tensor:
        """Compute the norm of [..., H]."""
        rows = _fused_norm(hidden_states.reshape(-1, hidden_states.shape[-1]), norm.weight, _eps(norm))
        return rows.view(hidden_states.shape)

    norm.forward = forward


def _window_of(attention: Any) -> int | None:
    """Return how many tokens back a layer sees, itself included; None for all."""
    window = getattr(attention, "sliding_window", None)
    if window is None and type(attention).__name__ == "MistralAttention":
        window = getattr(attention.config, "sliding_window", None)
    return None if window is None else int(window)
