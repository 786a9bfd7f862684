"""8-bit floats: matrices divided by a scale for each row, or one for all, so that they fill the range of the type.

Scales are powers of two: dividing by them rounds nothing, and 8-bit rows keep their bits when their scales change.
Source: Micikevicius et al. 2022, arXiv 2209.05433.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from attune.model.kernels import is_interpreted, runs

LARGEST = {torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0}


def quantise(x: Tensor, dtype: torch.dtype = torch.float8_e4m3fn, *, by_row: bool = True) -> tuple[Tensor, Tensor]:
    """Return `x` [T, C] in 8 bits and the scales that it was divided by: float32 [T, 1], or [1, 1] for all of it.

    The rows of `x` may lie apart. A row that holds an infinity has the scale NaN.
    """
    if x.numel() == 0:
        rows = x.shape[0] if by_row else 1
        return x.to(dtype), torch.ones(rows, 1, dtype=torch.float32, device=x.device)
    given = None if by_row else power_above(torch.linalg.vector_norm(x, float("inf")).float() * (1 / LARGEST[dtype]))
    if not runs(x) or x.dtype == torch.float64:
        return quantise_twin(x, dtype, given)
    if x.stride(1) != 1:
        x = x.contiguous()
    return _launch(x, dtype, given)


def quantise_twin(x: Tensor, dtype: torch.dtype, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return what `quantise` does, by plain torch; `given` is the scale for all rows, if there is one."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    scale = power_above(wide.abs().amax(dim=1, keepdim=True).float() * (1 / LARGEST[dtype])) if given is None else given
    return (wide / scale).to(dtype), scale.view(-1, 1)


def power_above(x: Tensor) -> Tensor:
    """Return the least power of two, 2 ** -126 or more, not below `x` [...], float32; NaN where it is not finite."""
    exponent = ((x.view(torch.int32) + 0x7FFFFF) >> 23).clamp(1, 253)
    return torch.where(x.isfinite(), (exponent << 23).view(torch.float32), torch.full_like(x, float("nan")))


def _launch(x: Tensor, dtype: torch.dtype, given: Tensor | None) -> tuple[Tensor, Tensor]:
    """Quantise with one program for each row."""
    rows, columns = x.shape
    out = torch.empty(rows, columns, dtype=dtype, device=x.device)
    scales = torch.empty(rows, 1, dtype=torch.float32, device=x.device) if given is None else given.view(1, 1)
    block = 1 << max(7, (columns - 1).bit_length())
    # the interpreter rounds 8-bit floats in its own way, so there the kernel leaves that to torch
    target = torch.empty(rows, columns, dtype=torch.float32) if is_interpreted() and not x.is_cuda else out
    _kernel()[(rows,)](
        x, target, scales, x.stride(0), columns,
        GIVEN=given is not None, SHARE=1 / LARGEST[dtype], BLOCK=block, num_warps=min(32, max(4, block // 1024)),
    )  # fmt: skip
    return (out if target is out else target.to(dtype)), scales


@cache
def _kernel() -> Any:
    """Return the kernel; made at first use, because Triton may be absent."""
    import triton
    import triton.language as tl

    @triton.jit
    def quantise_row(x, out, scales, stride, columns, GIVEN: tl.constexpr, SHARE: tl.constexpr, BLOCK: tl.constexpr):
        """One program finds the scale of a row, unless one is given for all, and writes the row divided by it."""
        row = tl.program_id(0).to(tl.int64)
        column = tl.arange(0, BLOCK)
        inside = column < columns
        values = tl.load(x + row * stride + column, mask=inside, other=0.0).to(tl.float32)
        if GIVEN:
            exponent = tl.load(scales).to(tl.int32, bitcast=True) >> 23
        else:
            need = tl.max(tl.abs(values), axis=0) * SHARE
            exponent = (need.to(tl.int32, bitcast=True) + 0x7FFFFF) >> 23
            exponent = tl.minimum(tl.maximum(exponent, 1), 253)
            scale = (exponent << 23).to(tl.float32, bitcast=True)
            tl.store(scales + row, tl.where(need < float("inf"), scale, float("nan")))
        inverse = ((254 - exponent) << 23).to(tl.float32, bitcast=True)  # a product rounds nothing, a fast quotient may
        tl.store(out + row * columns + column, (values * inverse).to(out.dtype.element_ty), mask=inside)

    return quantise_row
