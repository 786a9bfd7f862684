"""Rotary positions, and the norms of queries and keys before them, on the packed output of the q|k|v product."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

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
        _kernels()["forward"][(rows, -(-rotated // _HEADS))](
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
        _kernels()["backward"][(rows,)](
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


@cache
def _kernels() -> dict[str, Any]:
    """Compile-on-first-use kernels; Triton is imported only where they run."""
    import triton
    import triton.language as tl

    @triton.jit
    def forward(
        packed, out, cos, sin, query, key, eps, in_stride, out_stride, queries, rotated,
        D: tl.constexpr, HALF: tl.constexpr, HEADS: tl.constexpr, NORM: tl.constexpr,
    ):  # fmt: skip
        row = tl.program_id(0).to(tl.int64)
        column = tl.arange(0, HALF)[None, :]
        inside = column < D // 2
        angle = row * D + column
        cos1 = tl.load(cos + angle, mask=inside, other=0.0).to(tl.float32)
        sin1 = tl.load(sin + angle, mask=inside, other=0.0).to(tl.float32)
        cos2 = tl.load(cos + angle + D // 2, mask=inside, other=0.0).to(tl.float32)
        sin2 = tl.load(sin + angle + D // 2, mask=inside, other=0.0).to(tl.float32)
        head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
        there = inside & (head < rotated)
        place = packed + row * in_stride + head * D + column
        first = tl.load(place, mask=there, other=0.0).to(tl.float32)
        second = tl.load(place + D // 2, mask=there, other=0.0).to(tl.float32)
        if NORM:
            square = tl.sum(first * first + second * second, axis=1)[:, None]
            scale = 1.0 / tl.sqrt(square / D + eps)
            of_query, of_key = there & (head < queries), there & (head >= queries)
            gain = query + column + 0 * head
            first *= scale * tl.load(gain, mask=of_query, other=0.0).to(tl.float32) + scale * tl.load(
                key + column + 0 * head, mask=of_key, other=0.0
            ).to(tl.float32)
            second *= scale * tl.load(gain + D // 2, mask=of_query, other=0.0).to(tl.float32) + scale * tl.load(
                key + column + D // 2 + 0 * head, mask=of_key, other=0.0
            ).to(tl.float32)
        target = out + row * out_stride + head * D + column
        tl.store(target, (first * cos1 - second * sin1).to(out.dtype.element_ty), mask=there)
        tl.store(target + D // 2, (second * cos2 + first * sin2).to(out.dtype.element_ty), mask=there)

    @triton.jit
    def backward(
        d_query, d_key, d_value, out, cos, sin, query, key, raw, parts, eps,
        query_row, query_head, key_row, key_head, value_row, value_head, stride, queries, keys,
        D: tl.constexpr, HALF: tl.constexpr, HEADS: tl.constexpr, NORM: tl.constexpr,
    ):  # fmt: skip
        row = tl.program_id(0).to(tl.int64)
        column = tl.arange(0, HALF)[None, :]
        inside = column < D // 2
        angle = row * D + column
        cos1 = tl.load(cos + angle, mask=inside, other=0.0).to(tl.float32)
        sin1 = tl.load(sin + angle, mask=inside, other=0.0).to(tl.float32)
        cos2 = tl.load(cos + angle + D // 2, mask=inside, other=0.0).to(tl.float32)
        sin2 = tl.load(sin + angle + D // 2, mask=inside, other=0.0).to(tl.float32)
        width = (queries + 2 * keys) * D
        for part in tl.static_range(2):
            count = queries if part == 0 else keys
            base = d_query + row * query_row if part == 0 else d_key + row * key_row
            step = query_head if part == 0 else key_head
            before = 0 if part == 0 else queries
            gain = query if part == 0 else key
            total1 = tl.zeros([1, HALF], dtype=tl.float32)
            total2 = tl.zeros([1, HALF], dtype=tl.float32)
            for start in range(0, count, HEADS):
                head = start + tl.arange(0, HEADS)[:, None]
                there = inside & (head < count)
                upper1 = tl.load(base + head * step + column, mask=there, other=0.0).to(tl.float32)
                upper2 = tl.load(base + head * step + D // 2 + column, mask=there, other=0.0).to(tl.float32)
                back1 = upper1 * cos1 + upper2 * sin2
                back2 = upper2 * cos2 - upper1 * sin1
                if NORM:
                    place = row * width + (before + head) * D + column
                    first = tl.load(raw + place, mask=there, other=0.0).to(tl.float32)
                    second = tl.load(raw + place + D // 2, mask=there, other=0.0).to(tl.float32)
                    square = tl.sum(first * first + second * second, axis=1)[:, None]
                    scale = 1.0 / tl.sqrt(square / D + eps)
                    first *= scale
                    second *= scale
                    total1 += tl.sum(back1 * first, axis=0)[None, :]
                    total2 += tl.sum(back2 * second, axis=0)[None, :]
                    back1 *= tl.load(gain + column, mask=inside, other=0.0).to(tl.float32)
                    back2 *= tl.load(gain + D // 2 + column, mask=inside, other=0.0).to(tl.float32)
                    mean = tl.sum(back1 * first + back2 * second, axis=1)[:, None] / D
                    back1 = scale * (back1 - first * mean)
                    back2 = scale * (back2 - second * mean)
                target = out + row * stride + (before + head) * D + column
                tl.store(target, back1.to(out.dtype.element_ty), mask=there)
                tl.store(target + D // 2, back2.to(out.dtype.element_ty), mask=there)
            if NORM:
                sums = parts + (row * 2 + part) * D + column
                tl.store(sums, total1, mask=inside)
                tl.store(sums + D // 2, total2, mask=inside)
        for start in range(0, keys, HEADS):
            head = start + tl.arange(0, HEADS)[:, None]
            there = inside & (head < keys)
            source = d_value + row * value_row + head * value_head + column
            target = out + row * stride + (queries + keys + head) * D + column
            tl.store(target, tl.load(source, mask=there, other=0.0), mask=there)
            tl.store(target + D // 2, tl.load(source + D // 2, mask=there, other=0.0), mask=there)

    return {"forward": forward, "backward": backward}
