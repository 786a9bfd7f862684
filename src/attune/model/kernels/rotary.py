"""Rotary positions, and the norms of queries and keys before them, on the packed output of the q|k|v product."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attune.model.kernels import runs

_HEADS = 8  # handled at once by one program


@dataclass(frozen=True, slots=True)
class Heads:
    """How a packed row [queries | keys | values] is divided: numbers of heads, and their width D."""

    queries: int
    keys: int
    width: int

    @property
    def packed(self) -> int:
        """Width of a packed row."""
        return (self.queries + 2 * self.keys) * self.width


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """RMS norms over each query and key head: weights [D], and eps."""

    query: Tensor
    key: Tensor
    eps: float


def split(packed: Tensor, heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries [T, Hq, D], keys and values [T, Hk, D] of packed rows, as views."""
    parts = packed.view(packed.shape[0], -1, heads.width)
    query, key, value = parts.split([heads.queries, heads.keys, heads.keys], dim=1)
    return query, key, value


def rotate(
    packed: Tensor, cos: Tensor, sin: Tensor, *, heads: Heads, norms: HeadNorms | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries [T, Hq, D], keys and values [T, Hk, D] of `packed` [T, (Hq + 2 Hk) D], the first two rotated.

    cos, sin [T, D] belong to the positions. Without norms `packed` itself is rotated and all three are views of it;
    with norms it is left as it is, for the backward pass. Source: Su et al. 2021, arXiv 2104.09864.
    """
    rows, rotated = packed.shape[0], heads.queries + heads.keys
    values = packed.view(rows, -1, heads.width)[:, rotated:]
    if runs(packed):
        out = packed if norms is None else packed.new_empty((rows, rotated * heads.width))
        query, key, eps = (norms.query, norms.key, norms.eps) if norms else (packed, packed, 0.0)
        from attune.model.kernels.rotary_triton import rotate_forward

        rotate_forward[(rows, -(-rotated // _HEADS))](
            packed, out, cos, sin, query, key, eps, packed.stride(0), out.stride(0), heads.queries, rotated,
            D=heads.width, HALF=_half_block(heads.width), HEADS=_HEADS, NORM=norms is not None, num_warps=2,
        )  # fmt: skip
        turned = out.view(rows, -1, heads.width)
        return turned[:, : heads.queries], turned[:, heads.queries : rotated], values
    parts = packed.view(rows, -1, heads.width)[:, :rotated]
    wide = torch.promote_types(packed.dtype, torch.float32)
    new = parts.to(wide)
    if norms is not None:
        gain = _gains(norms, heads, wide)
        new = new * torch.rsqrt(new.square().mean(-1, keepdim=True) + norms.eps) * gain
    new = (new * cos[:, None] + _turned(new) * sin[:, None]).to(packed.dtype)
    if norms is None:
        parts.copy_(new)
        new = parts
    return new[:, : heads.queries], new[:, heads.queries :], values


def rotate_backward(
    grads: tuple[Tensor, Tensor, Tensor], cos: Tensor, sin: Tensor, *, heads: Heads, norms: HeadNorms | None,
    packed: Tensor, out: Tensor,
) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
    """Write the gradient of the packed rows into the first columns of `out`; return those of the two norms' weights.

    grads: of queries, keys and values as `rotate` returned them; packed: its input with norms, else unread.
    """
    d_query, d_key, d_value = grads
    rows, rotated = d_query.shape[0], heads.queries + heads.keys
    if runs(d_query):
        parts = d_query.new_empty((rows, 2, heads.width), dtype=torch.float32) if norms else d_query
        query, key, eps = (norms.query, norms.key, norms.eps) if norms else (d_query, d_query, 0.0)
        from attune.model.kernels.rotary_triton import rotate_backward

        rotate_backward[(rows,)](
            d_query, d_key, d_value, out, cos, sin, query, key, packed, parts, eps,
            *d_query.stride()[:2], *d_key.stride()[:2], *d_value.stride()[:2],
            out.stride(0), heads.queries, heads.keys,
            D=heads.width, HALF=_half_block(heads.width), HEADS=_HEADS, NORM=norms is not None, num_warps=2,
        )  # fmt: skip
        if norms is None:
            return None, None
        sums = parts.sum(0)
        return sums[0].to(norms.query.dtype), sums[1].to(norms.key.dtype)
    wide = torch.promote_types(d_query.dtype, torch.float32)
    upper = torch.cat([d_query, d_key], dim=1).to(wide)
    turned = upper * sin[:, None]
    half = heads.width // 2
    back = upper * cos[:, None] + torch.cat([turned[..., half:], -turned[..., :half]], dim=-1)
    view = out[:, : heads.packed].unflatten(1, (-1, heads.width))
    view[:, rotated:] = d_value
    if norms is None:
        view[:, :rotated] = back
        return None, None
    values = packed.view(rows, -1, heads.width)[:, :rotated].to(wide)
    scale = torch.rsqrt(values.square().mean(-1, keepdim=True) + norms.eps)
    normed, scaled = values * scale, back * _gains(norms, heads, wide)
    view[:, :rotated] = scale * (scaled - normed * (scaled * normed).mean(-1, keepdim=True))
    sums = (back * normed).sum(0)
    return (
        sums[: heads.queries].sum(0).to(norms.query.dtype),
        sums[heads.queries :].sum(0).to(norms.key.dtype),
    )


def _turned(x: Tensor) -> Tensor:
    """Return (-second half, first half) along the last dimension."""
    half = x.shape[-1] // 2
    return torch.cat([-x[..., half:], x[..., :half]], dim=-1)


def _gains(norms: HeadNorms, heads: Heads, dtype: torch.dtype) -> Tensor:
    """Return the norm weights of all rotated heads, [Hq + Hk, D]."""
    return torch.cat(
        [norms.query.to(dtype).expand(heads.queries, -1), norms.key.to(dtype).expand(heads.keys, -1)]
    )  # fmt: skip


def _half_block(width: int) -> int:
    return 1 << (width // 2 - 1).bit_length()
