"""Root-mean-square norm: one pass forward, one pass backward that adds the residual's gradient on the way."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from attune.model.kernels import runs

_PROGRAMS = 1056  # of the backward kernel; each sums the weight's gradient over its rows


def rms_norm(
    x: Tensor, weight: Tensor, *, eps: float, dtype: torch.dtype, add: Tensor | None = None, out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return x + add, and weight * that / sqrt(mean(that^2) + eps) in `dtype`; all [T, H], weight [H].

    Computed in float32 or better. Without `add` the first is x itself; with it, it takes the place of `add` where the
    types agree. The second is written into the first H columns of `out`, if given.
    Source: Zhang and Sennrich 2019, arXiv 1910.07467.
    """
    rows, width = x.shape
    normed = torch.empty(x.shape, dtype=dtype, device=x.device) if out is None else out[:, :width]
    total = x if add is None else add if add.dtype == x.dtype else torch.empty_like(x)
    if runs(x):
        block, warps = _shape(width)
        _kernels()["forward"][(rows,)](
            x, x if add is None else add, weight, total, normed, width, normed.stride(0), eps,
            HAS_ADD=add is not None, BLOCK=block, num_warps=warps,
        )  # fmt: skip
        return total, normed
    wide = torch.promote_types(x.dtype, torch.float32)
    values = x.to(wide)
    if add is not None:
        values = values + add
        values = total.copy_(values).to(wide)
    normed.copy_(values * torch.rsqrt(values.square().mean(-1, keepdim=True) + eps) * weight)
    return total, normed


def rms_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, *, eps: float, add: Tensor | None = None, needs_weight: bool,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Return the gradients of x (plus `add` [T, H], the gradient that reaches x past the norm) and of the weight.

    grad [T, H]; the first is in x's type, or written into the first H columns of `out`, if given; the second, None
    unless asked for, is in the weight's type.
    """
    rows, width = x.shape
    dx = torch.empty_like(x) if out is None else out[:, :width]
    if not runs(x):
        wide = torch.promote_types(x.dtype, torch.float32)
        values, upper = x.to(wide), grad.to(wide)
        scale = torch.rsqrt(values.square().mean(-1, keepdim=True) + eps)
        normed, scaled = values * scale, upper * weight
        new = scale * (scaled - normed * (scaled * normed).mean(-1, keepdim=True))
        dx.copy_(new if add is None else new + add)
        return dx, (upper * normed).sum(0).to(weight.dtype) if needs_weight else None
    block, warps = _shape(width)
    programs = min(rows, _PROGRAMS) if needs_weight else rows
    parts = torch.empty((programs, width), dtype=torch.float32, device=x.device) if needs_weight else dx
    _kernels()["backward"][(programs,)](
        grad, x, weight, x if add is None else add, dx, parts, rows, width,
        0 if add is None else add.stride(0), dx.stride(0), eps,
        HAS_ADD=add is not None, NEEDS_WEIGHT=needs_weight, BLOCK=block, num_warps=warps,
    )  # fmt: skip
    return dx, parts.sum(0).to(weight.dtype) if needs_weight else None


def _shape(width: int) -> tuple[int, int]:
    """Return the block that holds a row, and the warps that work on it."""
    block = 1 << (width - 1).bit_length()
    return block, min(max(block // 512, 1), 16)


@cache
def _kernels() -> dict[str, Any]:
    """Compile-on-first-use kernels; Triton is imported only where they run."""
    import triton
    import triton.language as tl

    @triton.jit
    def forward(
        x, add, weight, total, normed, width, stride, eps, HAS_ADD: tl.constexpr, BLOCK: tl.constexpr
    ):  # fmt: skip
        row = tl.program_id(0).to(tl.int64)
        column = tl.arange(0, BLOCK)
        inside = column < width
        values = tl.load(x + row * width + column, mask=inside, other=0.0).to(tl.float32)
        if HAS_ADD:
            values += tl.load(add + row * width + column, mask=inside, other=0.0).to(tl.float32)
            stored = values.to(total.dtype.element_ty)
            tl.store(total + row * width + column, stored, mask=inside)
            values = stored.to(tl.float32)  # the norm is that of what is stored
        scale = 1.0 / tl.sqrt(tl.sum(values * values, axis=0) / width + eps)
        gain = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
        tl.store(normed + row * stride + column, (values * scale * gain).to(normed.dtype.element_ty), mask=inside)

    @triton.jit(do_not_specialize=["rows"])
    def backward(
        grad, x, weight, add, dx, parts, rows, width, add_stride, stride, eps,
        HAS_ADD: tl.constexpr, NEEDS_WEIGHT: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        program = tl.program_id(0).to(tl.int64)
        step = tl.num_programs(0)
        column = tl.arange(0, BLOCK)
        inside = column < width
        gain = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
        total = tl.zeros([BLOCK], dtype=tl.float32)
        for number in range((rows - program + step - 1) // step):
            row = program + number * step
            place = row * width + column
            values = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
            upper = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
            scale = 1.0 / tl.sqrt(tl.sum(values * values, axis=0) / width + eps)
            normed = values * scale
            scaled = upper * gain
            mean = tl.sum(scaled * normed, axis=0) / width
            result = scale * (scaled - normed * mean)
            if HAS_ADD:
                result += tl.load(add + row * add_stride + column, mask=inside, other=0.0).to(tl.float32)
            tl.store(dx + row * stride + column, result.to(dx.dtype.element_ty), mask=inside)
            if NEEDS_WEIGHT:
                total += upper * normed
        if NEEDS_WEIGHT:
            tl.store(parts + program * width + column, total, mask=inside)

    return {"forward": forward, "backward": backward}
