"""A decoder layer of the Llama family computed by attune itself: few kernels, little stored, written out backward.

Of each token and layer these stay for the backward pass: the input of both halves, the packed queries, keys and values
with attention's output, and gate and up. The norms and the gated product are computed again, which costs one pass over
memory and saves a third of it. The layer is that of transformers; its parameters stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        ctx: Any, x: Tensor, angles: tuple[Tensor, Tensor], layer: FusedLayer, documents: Documents,
        rows: Tensor | None, *_: Tensor,
    ) -> Tensor:  # fmt: skip
        first, second = layer.attention, layer.feed_forward
        like = x.new_empty(0, dtype=_arithmetic(x))
        with torch.autocast(x.device.type, enabled=False):
            room = first.query_key_value.room_for_input(len(x), like)
            scales_in = _room_for_scales(first.query_key_value, x, like)
            _norm(first.norm, x, out=room, scales=scales_in)
            packed, low_in = first.query_key_value.times(room)
            query, key, value = rotate(packed, *angles, heads=first.heads, norms=first.norms_of_heads())
            out, seen = attend(query, key, value, documents, scale=first.scale, window=first.window, name=first.kernel)
            passed, flat = (x, out.flatten(1)) if rows is None else (x[rows], out.flatten(1)[rows])
            attended, low_out = first.output.times(flat)
            room = second.gate_up.room_for_input(len(passed), like)
            scales_up = _room_for_scales(second.gate_up, passed, like)
            middle = _norm(second.norm, passed, out=room, add=attended, scales=scales_up)
            both, low_up = second.gate_up.times(room)
            room = second.down.room_for_input(len(passed), like)
            swiglu(both, out=room)
            result, low_down = second.down.times(room)
            result = result.add_(middle) if result.dtype == middle.dtype else result + middle
        of_first, of_second = (packed, out, seen.lse, low_in, low_out, scales_in), (both, low_up, low_down, scales_up)
        ctx.save_for_backward(x, middle, rows, *of_first, *of_second, *angles)
        ctx.layer, ctx.documents = layer, documents
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, middle, rows, packed, out, lse, low_in, low_out, scales_in, *rest = ctx.saved_tensors
        layer: FusedLayer = ctx.layer
        *of_second, cos, sin = rest
        with torch.autocast(x.device.type, enabled=False):
            first = layer.attention
            room = first.output.room_for_gradient(len(middle), x)
            d_second = _feed_forward_back(layer.feed_forward, grad.contiguous(), middle, saved=of_second, out=room)
            upper, dy = room[:, : x.shape[1]], room.to(out.dtype)
            d_out, d_low = first.output.back(dy, low_out, needs_x=True)
            assert d_out is not None
            flat = out.flatten(1) if rows is None else out.flatten(1)[rows]
            d_output = first.output.back_parameters(dy, flat, low=low_out, d_low=d_low)
            if rows is not None:
                d_out, upper = _spread(d_out, rows, len(x)), _spread(upper, rows, len(x))
            norms = first.norms_of_heads()
            parts = split(packed, first.heads)
            if norms is not None:
                parts = rotate(packed, cos, sin, heads=first.heads, norms=norms)
            seen = Attended(*parts, out, lse, ctx.documents, first.scale, first.window, first.kernel)
            d_parts = attend_backward(d_out.view(out.shape), seen)
            room = first.query_key_value.room_for_gradient(len(x), out)
            d_norms = rotate_backward(d_parts, cos, sin, heads=first.heads, norms=norms, packed=packed, out=room)
            dx, d_norm, d_inner = _back_through_norm(
                Normed(first.norm, first.query_key_value, x, scales_in), room, low_in, upper=upper,
                needs=ctx.needs_input_grad[0],
            )  # fmt: skip
        return (dx, None, None, None, None, d_norm, *(d_norms if norms else ()), *d_inner, *d_output, *d_second)


def _feed_forward_back(
    half: FeedForwardHalf, grad: Tensor, middle: Tensor, *, saved: Sequence[Any], out: Tensor
) -> tuple[Tensor | None, ...]:
    """Write the gradient of the second half's input into the first columns of `out`; return that of its parameters."""
    both, low_up, low_down, scales = saved
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
    normed = Normed(half.norm, half.gate_up, middle, scales)
    _, d_norm, d_inner = _back_through_norm(normed, room, low_up, upper=grad, needs=True, out=out)
    return (d_norm, *d_inner, *d_down)


@dataclass(frozen=True, slots=True)
class Normed:
    """projection(norm(x)) as it was computed; scales [T] of the norm, None: the norm is computed again if needed."""

    norm: Any
    projection: Projection
    x: Tensor
    scales: Tensor | None


def _back_through_norm(
    done: Normed, dy: Tensor, low: Tensor | None, *, upper: Tensor, needs: bool, out: Tensor | None = None
) -> tuple[Tensor | None, Tensor | None, tuple[Tensor | None, ...]]:
    """Return the gradients of x, of the norm's weight and of the projection, for dy, that of projection(norm(x)).

    upper [T, H] is the gradient that reaches x past this half; it is in the first result, which `out` may hold.
    """
    weight: Tensor = done.norm.weight
    d_normed, d_low = done.projection.back(dy, low, needs_x=needs or weight.requires_grad)
    grads: tuple[Tensor | None, ...] = (None,) * len(done.projection.parameters)
    if done.projection.trains and done.scales is not None:
        norm = (done.scales, weight.detach())
        grads = done.projection.back_parameters(dy, done.x, low=low, d_low=d_low, norm=norm)
    elif done.projection.trains:
        normed = done.projection.room_for_input(len(dy), dy)
        _norm(done.norm, done.x, out=normed)
        grads = done.projection.back_parameters(dy, normed, low=low, d_low=d_low)
    if d_normed is None:
        return None, None, grads
    dx, d_weight = rms_norm_backward(
        d_normed, done.x, weight, eps=_eps(done.norm), add=upper, needs_weight=weight.requires_grad, out=out
    )
    return dx, d_weight, grads


def _norm(norm: Any, x: Tensor, *, out: Tensor, add: Tensor | None = None, scales: Tensor | None = None) -> Tensor:
    """Write norm(x + add) into the first columns of `out` and return x + add."""
    return rms_norm(x, norm.weight, eps=_eps(norm), dtype=out.dtype, add=add, out=out, scales=scales)[0]


def _room_for_scales(projection: Projection, x: Tensor, like: Tensor) -> Tensor | None:
    """Return memory for a norm's scales [T] where they spare the backward pass the norm, else None."""
    if not projection.trains_lora_alone or x.dtype != like.dtype:
        return None
    return x.new_empty(len(x), dtype=torch.promote_types(x.dtype, torch.float32))


def _spread(part: Tensor, rows: Tensor, count: int) -> Tensor:
    """Return [count, C] with `part` at some rows and 0 elsewhere."""
    return part.new_zeros((count, part.shape[1])).index_copy_(0, rows, part)


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


def fuse_layer(layer: Any, kernel: str, *, is_last: bool = False) -> None:
    """Make a decoder layer compute flat batches in the fused form with the given attention (exact, varlen, flash4).

    What follows the attention of the last layer concerns each position alone: given `learned`, the positions that are
    learned, it computes and returns only these.

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
        rows = options.get("learned") if is_last else None

        def compute(states: Tensor) -> Tensor:
            """Compute both halves of [1, T, H]."""
            x = states.view(-1, states.shape[-1])  # to take states[0] would copy its gradient
            return _layer(x, (cos[0], sin[0]), fused, documents, rows, *fused.parameters)[None]

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
