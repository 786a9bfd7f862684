"""Root-mean-square norm: one pass forward, one pass backward that adds the residual's gradient on the way."""

from __future__ import annotations

import torch
from torch import Tensor

from attune.model.kernels import runs

_PROGRAMS = 1056  # of the backward kernel; each sums the weight's gradient over its rows


def rms_norm(
    x: Tensor, weight: Tensor, *, eps: float, dtype: torch.dtype, add: Tensor | None = None, out: Tensor | None = None,
    scales: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return x + add, and weight * that / sqrt(mean(that^2) + eps) in `dtype`; all [T, H], weight [H].

    Computed in float32 or better. Without `add` the first is x itself; with it, it takes the place of `add` where the
    types agree. The second is written into the first H columns of `out`, if given; 1 / sqrt(...) of each row into
    `scales` [T], if given.
    Source: Zhang and Sennrich 2019, arXiv 1910.07467.
    """
    rows, width = x.shape
    normed = torch.empty(x.shape, dtype=dtype, device=x.device) if out is None else out[:, :width]
    total = x if add is None else add if add.dtype == x.dtype else torch.empty_like(x)
    if runs(x):
        block, warps = _shape(width)
        from attune.model.kernels.norm_triton import norm_forward

        norm_forward[(rows,)](
            x, x if add is None else add, weight, total, normed, x if scales is None else scales,
            width, normed.stride(0), eps,
            HAS_ADD=add is not None, HAS_SCALES=scales is not None, BLOCK=block, num_warps=warps,
        )  # fmt: skip
        return total, normed
    wide = torch.promote_types(x.dtype, torch.float32)
    values = x.to(wide)
    if add is not None:
        values = values + add
        values = total.copy_(values).to(wide)
    scale = torch.rsqrt(values.square().mean(-1, keepdim=True) + eps)
    if scales is not None:
        scales.copy_(scale[:, 0])
    normed.copy_(values * scale * weight)
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
    programs, warps = (min(rows, _PROGRAMS), min(2 * warps, 16)) if needs_weight else (rows, warps)
    parts = torch.empty((programs, width), dtype=torch.float32, device=x.device) if needs_weight else dx
    from attune.model.kernels.norm_triton import norm_backward

    norm_backward[(programs,)](
        grad, x, weight, x if add is None else add, dx, parts, rows, width,
        0 if add is None else add.stride(0), dx.stride(0), eps,
        HAS_ADD=add is not None, NEEDS_WEIGHT=needs_weight, BLOCK=block, num_warps=warps,
    )  # fmt: skip
    return dx, parts.sum(0).to(weight.dtype) if needs_weight else None


def _shape(width: int) -> tuple[int, int]:
    """Return the block that holds a row, and the warps that work on it."""
    block = 1 << (width - 1).bit_length()
    return block, min(max(block // 512, 1), 16)
