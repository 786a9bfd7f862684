"""Triton kernels of SwiGLU; imported only where kernels run."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def swiglu_forward(both, product, width, stride, BLOCK: tl.constexpr):
    """Compute a piece of one row's product."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    gate = tl.load(both + row * 2 * width + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(both + row * 2 * width + width + column, mask=inside, other=0.0).to(tl.float32)
    value = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(product + row * stride + column, value.to(product.dtype.element_ty), mask=inside)


@triton.jit
def swiglu_backward(
    grad, both, d_both, product, width, stride, NEEDS_PRODUCT: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Compute a piece of one row's gradient, and of its product."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    place = row * 2 * width + column
    gate = tl.load(both + place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(both + place + width, mask=inside, other=0.0).to(tl.float32)
    upper = tl.load(grad + row * width + column, mask=inside, other=0.0).to(tl.float32)
    share = 1.0 / (1.0 + tl.exp(-gate))
    d_gate = upper * up * share * (1.0 + gate * (1.0 - share))
    d_up = upper * gate * share
    target = d_both + row * stride + column
    tl.store(target, d_gate.to(d_both.dtype.element_ty), mask=inside)
    tl.store(target + width, d_up.to(d_both.dtype.element_ty), mask=inside)
    if NEEDS_PRODUCT:
        again = gate * share * up
        tl.store(product + row * width + column, again.to(product.dtype.element_ty), mask=inside)
