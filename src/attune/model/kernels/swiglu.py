"""SwiGLU: the gated product of a feed-forward layer; backward computes the product again instead of storing it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from attune.model.kernels import runs

_BLOCK = 1024


def swiglu(both: Tensor, out: Tensor | None = None) -> Tensor:
    """Return silu(gate) * up [T, I] of gate and up side by side, `both` [T, 2 I].

    Written into the first I columns of `out`, if given. Source: Shazeer 2020, arXiv 2002.05202.
    """
    rows, width = both.shape[0], both.shape[1] // 2
    product = both.new_empty((rows, width)) if out is None else out[:, :width]
    if runs(both):
        from attune.model.kernels.swiglu_triton import swiglu_forward

        swiglu_forward[(rows, -(-width // _BLOCK))](both, product, width, product.stride(0), BLOCK=_BLOCK, num_warps=4)
        return product
    wide = both.to(torch.promote_types(both.dtype, torch.float32))
    return product.copy_(F.silu(wide[:, :width]) * wide[:, width:])


def swiglu_backward(grad: Tensor, both: Tensor, *, out: Tensor, needs_product: bool) -> Tensor | None:
    """Write the gradient of `both` [T, 2 I] into the first 2 I columns of `out`, for that of the product, grad [T, I].

    Returns the product again, if needed.
    """
    rows, width = grad.shape
    product = torch.empty_like(grad, dtype=both.dtype) if needs_product else None
    if runs(both):
        from attune.model.kernels.swiglu_triton import swiglu_backward

        swiglu_backward[(rows, -(-width // _BLOCK))](
            grad, both, out, out if product is None else product, width, out.stride(0),
            NEEDS_PRODUCT=needs_product, BLOCK=_BLOCK, num_warps=4,
        )  # fmt: skip
        return product
    wide = torch.promote_types(both.dtype, torch.float32)
    gate, up, upper = both[:, :width].to(wide), both[:, width:].to(wide), grad.to(wide)
    share = torch.sigmoid(gate)
    out[:, :width] = upper * up * share * (1 + gate * (1 - share))
    out[:, width : 2 * width] = upper * gate * share
    return None if product is None else product.copy_(gate * share * up)
