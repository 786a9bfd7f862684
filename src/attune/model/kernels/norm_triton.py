"""Triton kernels of the root-mean-square norm; imported only where kernels run."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def norm_forward(
    x, add, weight, total, normed, scales, width, stride, eps,
    HAS_ADD: tl.constexpr, HAS_SCALES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add, and norm one row."""
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
    if HAS_SCALES:
        tl.store(scales + row, scale)
    gain = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed + row * stride + column, (values * scale * gain).to(normed.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def norm_backward(
    grad, x, weight, add, dx, parts, rows, width, add_stride, stride, eps,
    HAS_ADD: tl.constexpr, NEEDS_WEIGHT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of some rows, and their part of the weight's."""
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
