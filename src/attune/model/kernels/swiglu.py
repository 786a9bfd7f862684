"""SwiGLU: the gated product of a feed-forward layer; backward computes the product again instead of storing it."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attune.model.kernels import runs

_BLOCK = 1024


def swiglu(both: Tensor) -> Tensor:
    """Return silu(gate) * up [T, I] of gate and up side by side, `both` [T, 2 I].

    Source: Shazeer 2020, arXiv 2002.05202.
    """
    rows, width = both.shape[0], both.shape[1] // 2
    if not runs(both):
        wide = both.to(torch.promote_types(both.dtype, torch.float32))
        return (F.silu(wide[:, :width]) * wide[:, width:]).to(both.dtype)
    out = torch.empty((rows, width), dtype=both.dtype, device=both.device)
    _kernels()["forward"][(rows, -(-width // _BLOCK))](both, out, width, BLOCK=_BLOCK, num_warps=4)
    return out


def swiglu_backward(grad: Tensor, both: Tensor, *, needs_product: bool) -> tuple[Tensor, Tensor | None]:
    """Return the gradient of `both` [T, 2 I] for that of the product, grad [T, I]; and the product again if needed."""
    rows, width = grad.shape
    if not runs(both):
        wide = torch.promote_types(both.dtype, torch.float32)
        gate, up, upper = both[:, :width].to(wide), both[:, width:].to(wide), grad.to(wide)
        share = torch.sigmoid(gate)
        d_gate = upper * up * share * (1 + gate * (1 - share))
        product = (gate * share * up).to(both.dtype) if needs_product else None
        return torch.cat([d_gate, upper * gate * share], dim=1).to(both.dtype), product
    d_both = torch.empty_like(both)
    product = torch.empty_like(grad, dtype=both.dtype) if needs_product else None
    _kernels()["backward"][(rows, -(-width // _BLOCK))](
        grad, both, d_both, d_both if product is None else product, width,
        NEEDS_PRODUCT=needs_product, BLOCK=_BLOCK, num_warps=4,
    )  # fmt: skip
    return d_both, product


@cache
def _kernels() -> dict[str, Any]:
    """Compile-on-first-use kernels; Triton is imported only where they run."""
    import triton
    import triton.language as tl

    @triton.jit
    def forward(both, out, width, BLOCK: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = column < width
        gate = tl.load(both + row * 2 * width + column, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(both + row * 2 * width + width + column, mask=inside, other=0.0).to(tl.float32)
        product = gate / (1.0 + tl.exp(-gate)) * up
        tl.store(out + row * width + column, product.to(out.dtype.element_ty), mask=inside)

    @triton.jit
    def backward(
        grad, both, d_both, product, width, NEEDS_PRODUCT: tl.constexpr, BLOCK: tl.constexpr
    ):  # fmt: skip
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
        tl.store(d_both + place, d_gate.to(d_both.dtype.element_ty), mask=inside)
        tl.store(d_both + place + width, d_up.to(d_both.dtype.element_ty), mask=inside)
        if NEEDS_PRODUCT:
            again = gate * share * up
            tl.store(product + row * width + column, again.to(product.dtype.element_ty), mask=inside)

    return {"forward": forward, "backward": backward}
