"""Attention on CUDA in 16 bits by a flash kernel, as one operation with a backward that torch.compile can trace.

Keys and values are gathered inside it where documents share a beginning, so a gathered copy lives only as long as one
call: what is kept for the backward is the keys and values of the tokens themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attune.model.kernels.gather import gather, gather_backward

VARLEN, FLASH4 = "varlen", "flash4"


@dataclass(frozen=True, slots=True)
class Layout:
    """What a kernel needs to know of the documents: offsets int32 [D + 1], and bounds on their lengths."""

    offsets: Tensor
    kv_offsets: Tensor
    longest: int
    longest_keys: int
    scale: float
    window: int | None
    kv_index: Tensor | None = None  # which tokens are the keys, and how that is inverted; None: the tokens themselves
    kv_order: Tensor | None = None
    kv_starts: Tensor | None = None


def _varlen(q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """FlashAttention-2 as torch brings it; it takes fewer key heads than query heads."""
    out, lse, *_ = torch.ops.aten._flash_attention_forward(  # noqa: SLF001 (varlen_attn forbids unlike heads)
        q,
        k,
        v,
        layout.offsets,
        layout.kv_offsets,
        layout.longest,
        layout.longest_keys,
        0.0,
        layout.window is None,
        False,
        scale=layout.scale,
        window_size_left=-1 if layout.window is None else layout.window - 1,
        window_size_right=0,
    )
    return out, lse


def _varlen_backward(
    grad: Tensor, inputs: tuple[Tensor, Tensor, Tensor], outputs: tuple[Tensor, Tensor], layout: Layout
) -> tuple[Tensor, Tensor, Tensor]:
    """The backward of `_varlen`; the random state it asks for is read only by dropout, which is off."""
    unread = torch.empty(2, dtype=torch.uint64, device=grad.device)
    return torch.ops.aten._flash_attention_backward(  # type: ignore[no-any-return]  # noqa: SLF001
        grad,
        *inputs,
        *outputs,
        layout.offsets,
        layout.kv_offsets,
        layout.longest,
        layout.longest_keys,
        0.0,
        layout.window is None,
        unread,
        torch.empty(0, device=grad.device),
        scale=layout.scale,
        window_size_left=-1 if layout.window is None else layout.window - 1,
        window_size_right=0,
    )


def _flash4_settings(layout: Layout) -> dict[str, Any]:
    """Return the settings that FlashAttention-4's forward and backward share."""
    return {
        "softmax_scale": layout.scale,
        "causal": layout.window is None,
        "window_size_left": None if layout.window is None else layout.window - 1,
        "window_size_right": None if layout.window is None else 0,
        "cu_seqlens_q": layout.offsets,
        "cu_seqlens_k": layout.kv_offsets,
        "max_seqlen_q": layout.longest,
        "max_seqlen_k": layout.longest_keys,
    }


def _flash4(q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """FlashAttention-4, called below its autograd function."""
    from flash_attn.cute.interface import _flash_attn_fwd

    out, lse, *_ = _flash_attn_fwd(q, k, v, return_lse=True, **_flash4_settings(layout))
    return out, lse


def _flash4_backward(
    grad: Tensor, inputs: tuple[Tensor, Tensor, Tensor], outputs: tuple[Tensor, Tensor], layout: Layout
) -> tuple[Tensor, Tensor, Tensor]:
    """The backward of `_flash4`."""
    from flash_attn.cute.interface import _flash_attn_bwd

    out, lse = outputs
    deterministic = torch.are_deterministic_algorithms_enabled()
    dq, dk, dv = _flash_attn_bwd(*inputs, out, grad, lse, deterministic=deterministic, **_flash4_settings(layout))
    return dq, dk, dv


Forward = Callable[[Tensor, Tensor, Tensor, Layout], tuple[Tensor, Tensor]]
Backward = Callable[
    [Tensor, tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor], Layout], tuple[Tensor, Tensor, Tensor]
]
KERNELS: dict[str, tuple[Forward, Backward]] = {
    VARLEN: (_varlen, _varlen_backward),
    FLASH4: (_flash4, _flash4_backward),
}


def gather_heads(x: Tensor, index: Tensor | None) -> Tensor:
    """Return x [T, heads, head_dim] at the places of `index`, [K, heads, head_dim]; x itself where it is None."""
    if index is None:
        return x
    rows = x.flatten(1)  # a view where the heads of a token lie together, as in the output of a fused projection
    return gather(rows if rows.stride(1) == 1 else rows.contiguous(), index).view(-1, *x.shape[1:])


def gather_heads_backward(grad: Tensor, index: Tensor | None, order: Tensor | None, starts: Tensor | None) -> Tensor:
    """Return the gradient [T, heads, head_dim] of `gather_heads` from grad [K, heads, head_dim]."""
    if index is None:
        return grad
    assert order is not None, "gathered keys come with the order that inverts them"
    assert starts is not None, "gathered keys come with where each token's places start"
    return gather_backward(grad.flatten(1), index, order, starts).view(-1, *grad.shape[1:])


def forward(q: Tensor, k: Tensor, v: Tensor, layout: Layout, *, name: str) -> tuple[Tensor, Tensor]:
    """Return attention [T, heads, head_dim] and its log-sum-exp float32 [heads, T]; nothing is recorded for autograd.

    q [T, heads, head_dim], k and v [T, key heads, head_dim]. Causal, the last query of a document at its last key.
    """
    out, lse = KERNELS[name][0](q, gather_heads(k, layout.kv_index), gather_heads(v, layout.kv_index), layout)
    return out.contiguous(), lse


def backward(
    grad: Tensor, inputs: tuple[Tensor, Tensor, Tensor], outputs: tuple[Tensor, Tensor], layout: Layout, *, name: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v from that of the output; keys are gathered again."""
    q, k, v = inputs
    gathered = (q, gather_heads(k, layout.kv_index), gather_heads(v, layout.kv_index))
    dq, dk, dv = KERNELS[name][1](grad, gathered, outputs, layout)
    inverse = (layout.kv_index, layout.kv_order, layout.kv_starts)
    dk, dv = gather_heads_backward(dk, *inverse), gather_heads_backward(dv, *inverse)
    return dq.contiguous(), dk.contiguous(), dv.contiguous()


@torch.library.custom_op("attune::flash_attend", mutates_args=())
def flash_attend(  # noqa: PLR0917 (an operation takes flat arguments)
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Tensor,
    kv_offsets: Tensor,
    longest: int,
    longest_keys: int,
    scale: float,
    window: int | None,
    kv_index: Tensor | None,
    kv_order: Tensor | None,
    kv_starts: Tensor | None,
    name: str,
) -> tuple[Tensor, Tensor]:
    """`forward` as an operation that autograd and torch.compile know; after q, k, v the fields of Layout."""
    layout = Layout(
        offsets, kv_offsets, longest, longest_keys, scale, window, kv_index=kv_index, kv_order=kv_order,
        kv_starts=kv_starts,
    )  # fmt: skip
    return forward(q, k, v, layout, name=name)


@torch.library.custom_op("attune::flash_attend_backward", mutates_args=())
def flash_attend_backward(  # noqa: PLR0917
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    offsets: Tensor,
    kv_offsets: Tensor,
    longest: int,
    longest_keys: int,
    scale: float,
    window: int | None,
    kv_index: Tensor | None,
    kv_order: Tensor | None,
    kv_starts: Tensor | None,
    name: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """`backward` as an operation, for `flash_attend`."""
    layout = Layout(
        offsets, kv_offsets, longest, longest_keys, scale, window, kv_index=kv_index, kv_order=kv_order,
        kv_starts=kv_starts,
    )  # fmt: skip
    return backward(grad, (q, k, v), (out, lse), layout, name=name)


@flash_attend.register_fake
def _(q: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    """Shapes alone, for torch.compile."""
    return q.new_empty(q.shape), q.new_empty((q.shape[1], q.shape[0]), dtype=torch.float32)


@flash_attend_backward.register_fake
def _(_: Tensor, q: Tensor, k: Tensor, v: Tensor, *__: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Shapes alone, for torch.compile."""
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Keep what the backward needs."""
    ctx.save_for_backward(*inputs[:3], *output, *inputs[3:5], *inputs[9:12])
    ctx.numbers, ctx.name = inputs[5:9], inputs[12]


def _differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
    """The gradients of q, k and v; the plan has none."""
    saved = ctx.saved_tensors
    grads = flash_attend_backward(grad.contiguous(), *saved[:7], *ctx.numbers, *saved[7:], ctx.name)
    return (*grads, *(None,) * 10)


flash_attend.register_autograd(_differentiate, setup_context=_remember)
