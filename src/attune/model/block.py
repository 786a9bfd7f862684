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


@dataclass(frozen=True, slots=True)
class FusedLayer:
    """Both halves of a decoder layer."""

    attention: AttentionHalf
    feed_forward: FeedForwardHalf

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """All tensors that may need a gradient, in the order in which the backward pass returns the gradients."""
        return (*self.attention.parameters, *self.feed_forward.parameters)


class _Layer(torch.autograd.Function):
    """x + attention(norm(x)), then the same with the feed-forward network; x [T, H]."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, angles: tuple[Tensor, Tensor], layer: FusedLayer, documents: Documents, *_: Tensor
    ) -> Tensor:
        first, second = layer.attention, layer.feed_forward
        dtype = _arithmetic(x)
        like = x.new_empty(0, dtype=dtype)
        with torch.autocast(x.device.type, enabled=False):
            room = first.query_key_value.room_for_input(len(x), like)
            rms_norm(x, first.norm.weight, eps=_eps(first.norm), dtype=dtype, out=room)
            packed, low_in = first.query_key_value.times(room)
            query, key, value = rotate(packed, *angles, heads=first.heads, norms=first.norms_of_heads())
            out, seen = attend(query, key, value, documents, scale=first.scale, window=first.window, name=first.kernel)
            attended, low_out = first.output.times(out.flatten(1))
            room = second.gate_up.room_for_input(len(x), like)
            gain, eps = second.norm.weight, _eps(second.norm)
            middle = rms_norm(x, gain, eps=eps, dtype=dtype, add=attended, out=room)[0]
            both, low_up = second.gate_up.times(room)
            room = second.down.room_for_input(len(x), like)
            swiglu(both, out=room)
            result, low_down = second.down.times(room)
            result = result.add_(middle) if result.dtype == middle.dtype else result + middle
        lows = (low_in, low_out, low_up, low_down)
        ctx.save_for_backward(x, packed, out, seen.lse, middle, both, *lows, *angles)
        ctx.layer, ctx.documents = layer, documents
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, packed, out, lse, middle, both, low_in, low_out, low_up, low_down, *angles = ctx.saved_tensors
        layer: FusedLayer = ctx.layer
        with torch.autocast(x.device.type, enabled=False):
            first = layer.attention
            room = first.output.room_for_gradient(len(x), x)
            d_second = _feed_forward_back(
                layer.feed_forward, grad.contiguous(), middle=middle, both=both, lows=(low_up, low_down), out=room
            )
            upper, dy = room[:, : x.shape[1]], room.to(out.dtype)
            d_out, d_low = first.output.back(dy, low_out, needs_x=True)
            assert d_out is not None
            d_output = first.output.back_parameters(dy, out.flatten(1), low=low_out, d_low=d_low)
            norms = first.norms_of_heads()
            parts = split(packed, first.heads)
            if norms is not None:
                parts = rotate(packed, *angles, heads=first.heads, norms=norms)
            seen = Attended(*parts, out, lse, ctx.documents, first.scale, first.window, first.kernel)
            d_parts = attend_backward(d_out.view(out.shape), seen)
            room = first.query_key_value.room_for_gradient(len(x), out)
            d_norms = rotate_backward(
                d_parts, *angles, heads=first.heads, norms=norms, packed=packed, out=room
            )  # fmt: skip
            dx, d_norm, d_inner = _back_through_norm(
                first.query_key_value, room, low_in, x=x, norm=first.norm, upper=upper, needs=ctx.needs_input_grad[0]
            )
        return (dx, None, None, None, d_norm, *(d_norms if norms else ()), *d_inner, *d_output, *d_second)


def _feed_forward_back(
    half: FeedForwardHalf, grad: Tensor, *, middle: Tensor, both: Tensor, out: Tensor,
    lows: tuple[Tensor | None, Tensor | None],
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Write the gradient of the second half's input into the first columns of `out`; return that of its parameters."""
    low_up, low_down = lows
    dy = half.down.room_for_gradient(len(grad), both)  # a copy costs less than LoRA's part as a product of its own
    if dy.shape == grad.shape:
        dy = grad.to(both.dtype)
    else:
        dy[:, : grad.shape[1]] = grad
    d_product, d_low = half.down.back(dy, low_down, needs_x=True)
    assert d_product is not None
    room = half.gate_up.room_for_gradient(len(grad), both)
    product = swiglu_backward(d_product, both, out=room, needs_product=half.down.trains)
    d_down: tuple[Tensor | None, ...] = (None,) * len(half.down.parameters)
    if product is not None:
        d_down = half.down.back_parameters(dy, product, low=low_down, d_low=d_low)
    del product, d_product
    _, d_norm, d_inner = _back_through_norm(
        half.gate_up, room, low_up, x=middle, norm=half.norm, upper=grad, needs=True, out=out
    )
    return (d_norm, *d_inner, *d_down)


def _back_through_norm(
    projection: Projection, dy: Tensor, low: Tensor | None, *, x: Tensor, norm: Any, upper: Tensor, needs: bool,
    out: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None, tuple[Tensor | None, ...]]:  # fmt: skip
    """Return the gradients of x, of the norm's weight and of the projection, for dy, that of projection(norm(x)).

    upper [T, H] is the gradient that reaches x past this half; it is in the first result, which `out` may hold.
    """
    weight: Tensor = norm.weight
    d_normed, d_low = projection.back(dy, low, needs_x=needs or weight.requires_grad)
    grads: tuple[Tensor | None, ...] = (None,) * len(projection.parameters)
    if projection.trains:
        _, normed = rms_norm(x, weight, eps=_eps(norm), dtype=dy.dtype)
        grads = projection.back_parameters(dy, normed, low=low, d_low=d_low)
    if d_normed is None:
        return None, None, grads
    dx, d_weight = rms_norm_backward(
        d_normed, x, weight, eps=_eps(norm), add=upper, needs_weight=weight.requires_grad, out=out
    )  # fmt: skip
    return dx, d_weight, grads


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
        return rms_norm(x, weight, eps=eps, dtype=x.dtype)[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        needs = ctx.needs_input_grad[1]
        dx, d_weight = rms_norm_backward(grad.contiguous(), x, weight, eps=ctx.eps, add=None, needs_weight=needs)
        return dx, d_weight, None


# torch types neither `apply` nor what it returns
_layer: Callable[..., Tensor] = _Layer.apply
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
    fused = FusedLayer(half, feed_forward)
    usual: Callable[..., Any] = layer.forward

    def forward(hidden_states: Tensor, **options: Any) -> Any:
        """Compute the layer; documents say that the batch is flat."""
        documents = options.get("documents")
        if documents is None:
            return usual(hidden_states, **options)
        cos, sin = options["position_embeddings"]

        def compute(states: Tensor) -> Tensor:
            """Compute both halves of [1, T, H]."""
            x = states.view(-1, states.shape[-1])  # to take states[0] would copy its gradient
            return _layer(x, (cos[0], sin[0]), fused, documents, *fused.parameters)[None]

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
