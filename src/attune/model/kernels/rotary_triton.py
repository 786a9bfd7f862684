"""Triton kernels of rotary positions and head norms; imported only where kernels run."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def rotate_forward(
    packed, out, cos, sin, query, key, eps, in_stride, out_stride, queries, rotated,
    D: tl.constexpr, HALF: tl.constexpr, HEADS: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """Norm, if asked, and rotate some heads of one row."""
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
def rotate_backward(
    d_query, d_key, d_value, out, cos, sin, query, key, raw, parts, eps,
    query_row, query_head, key_row, key_head, value_row, value_head, stride, queries, keys,
    D: tl.constexpr, HALF: tl.constexpr, HEADS: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """Write one row's packed gradient, and its part of those of the norms' weights."""
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
