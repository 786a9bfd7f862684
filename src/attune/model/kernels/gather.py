"""Rows gathered by an index and the gradient of that: sums in float32, in a fixed order, so the same every time."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from attune.model.kernels import runs

WIDEST = 1024  # columns of one program
AT_ONCE = 4  # rows that one program reads at once


def gather(x: Tensor, index: Tensor) -> Tensor:
    """Return the rows of `x` [T, C] that `index` [K] names, [K, C] contiguous; the rows of `x` may lie apart."""
    if not runs(x):
        return x.index_select(0, index)
    out = torch.empty(index.shape[0], x.shape[1], dtype=x.dtype, device=x.device)
    block = _columns(x.shape[1])
    grid = (-(-index.shape[0] // AT_ONCE), -(-x.shape[1] // block))
    _kernels()[0][grid](x, index, out, x.stride(0), x.shape[1], index.shape[0], BLOCK=block, ROWS=AT_ONCE)
    return out


def gather_backward(grad: Tensor, index: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    """Return the gradient [T, C] of what was gathered, from that of the gathered rows, `grad` [K, C].

    order: int64 [K], places of the gathered rows sorted by the row they hold; starts: int32 [T + 1], row t is held at
    order[starts[t]:starts[t + 1]]. Sums are float32 (float64 for float64), rounded once at the end.
    """
    rows, columns = starts.shape[0] - 1, grad.shape[1]
    if not runs(grad):
        return _summed(grad, index, order, starts)
    if grad.stride(1) != 1:
        grad = grad.contiguous()
    out = torch.empty(rows, columns, dtype=grad.dtype, device=grad.device)
    block = _columns(columns)
    grid = (rows, -(-columns // block))
    wide = _wide(grad.dtype)
    _kernels()[1][grid](grad, order, starts, out, grad.stride(0), columns, BLOCK=block, ROWS=AT_ONCE, WIDE=wide)
    return out


def _summed(grad: Tensor, index: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    """The twin of the backward kernel in plain torch: deterministic on any device."""
    wide = grad.to(torch.promote_types(grad.dtype, torch.float32))
    if grad.device.type == "cpu":  # one thread adds in the order of the index
        total = wide.new_zeros(starts.shape[0] - 1, grad.shape[1]).index_add_(0, index, wide)
    else:  # index_add_ is in no fixed order there
        total = torch.segment_reduce(wide.index_select(0, order), "sum", offsets=starts.long(), axis=0)
    return total.to(grad.dtype)


def _wide(dtype: torch.dtype) -> Any:
    """Return the type, in Triton's terms, in which sums are taken."""
    import triton.language as tl

    return tl.float64 if dtype == torch.float64 else tl.float32


def _columns(columns: int) -> int:
    """Return how many columns one program handles: a power of two."""
    return min(WIDEST, 1 << max(4, (columns - 1).bit_length()))


@cache
def _kernels() -> tuple[Any, Any]:
    """Return the two kernels; made at first use, because Triton may be absent."""
    import triton
    import triton.language as tl

    @triton.jit(do_not_specialize=["count"])
    def copy_rows(x, index, out, x_stride, columns, count, BLOCK: tl.constexpr, ROWS: tl.constexpr):
        """One program copies ROWS rows, BLOCK columns of them."""
        row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        source = tl.load(index + row, mask=row < count, other=0).to(tl.int64)
        mask = (row < count)[:, None] & (place < columns)[None, :]
        values = tl.load(x + source[:, None] * x_stride + place[None, :], mask=mask)
        tl.store(out + row[:, None] * columns + place[None, :], values, mask=mask)

    @triton.jit
    def add_rows(
        grad, order, starts, out, grad_stride, columns, BLOCK: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr
    ):
        """One program adds all gathered rows that hold one row, ROWS at once, in the order they are listed."""
        row = tl.program_id(0).to(tl.int64)
        place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        start, last = tl.load(starts + row), tl.load(starts + row + 1)
        total = tl.zeros([BLOCK], dtype=WIDE)
        while start < last:  # not range(): the interpreter cannot take loaded bounds with newer numpy
            held = start + tl.arange(0, ROWS)
            source = tl.load(order + held, mask=held < last, other=0).to(tl.int64)
            mask = (held < last)[:, None] & (place < columns)[None, :]
            values = tl.load(grad + source[:, None] * grad_stride + place[None, :], mask=mask, other=0.0)
            total += tl.sum(values.to(WIDE), axis=0)
            start += ROWS
        tl.store(out + row * columns + place, total.to(out.dtype.element_ty), mask=place < columns)

    return copy_rows, add_rows
