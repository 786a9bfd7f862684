"""NF4, weights of 4 bits: sixteen levels where normal numbers fall equally often, with one scale for 64 weights.

Source: Dettmers et al. 2023, arXiv 2305.14314, section 3 and appendix E.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from attune.model.kernels import runs

BLOCK = 64  # weights that share a scale
GROUP = 256  # scales that share a grid of 8 bits
LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
_AT_ONCE = 32  # blocks of one program


@cache
def levels(device: torch.device) -> Tensor:
    """Return the sixteen levels, float32 [16], on `device`."""
    return torch.tensor(LEVELS, dtype=torch.float32, device=device)


@cache
def borders(device: torch.device) -> Tensor:
    """Return the borders between neighbouring levels, float32 [15], on `device`."""
    points = levels(device)
    return (points[1:] + points[:-1]) / 2


def find_scales(flat: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scales of the blocks of weights `flat` [N]: codes uint8 [B], and a grid float32 [G, 2] of each group.

    A scale is grid[0] + code * grid[1]: the largest magnitude of a block, to 1 part in 510 of the range of its group.
    """
    blocks = -(-flat.numel() // BLOCK)
    whole = flat.numel() // BLOCK * BLOCK
    largest = flat.new_empty(blocks)
    torch.linalg.vector_norm(flat[:whole].view(-1, BLOCK), float("inf"), dim=1, out=largest[: whole // BLOCK])
    if whole < flat.numel():
        largest[-1] = flat[whole:].abs().amax()
    groups = -(-blocks // GROUP)
    padded = largest.float()[-1:].repeat(groups * GROUP)  # the last group is filled up with a scale that it has
    padded[:blocks] = largest
    low, high = padded.view(groups, GROUP).aminmax(dim=1)
    grid = torch.stack([low, (high - low) / 255], dim=1)
    codes = (padded.view(groups, GROUP) - low[:, None]) / grid[:, 1:].clamp_min(torch.finfo(torch.float32).tiny)
    return codes.round().clamp(0, 255).to(torch.uint8).flatten()[:blocks].clone(), grid


def scales_of(codes: Tensor, grid: Tensor) -> Tensor:
    """Return the scale of each block, float32 [B]."""
    group = torch.arange(codes.numel(), device=codes.device) // GROUP
    return grid[group, 0] + codes.float() * grid[group, 1]


def pack(flat: Tensor, codes: Tensor, grid: Tensor) -> Tensor:
    """Return weights [N] as the nearest levels of their blocks, two in a byte, the first in the upper half: uint8.

    There are 32 bytes for each of the B scales; weights that are missing in the last block count as zeros.
    """
    scales = scales_of(codes, grid)
    if not runs(flat) or flat.dtype == torch.float64:
        return pack_twin(flat, scales)
    packed = torch.empty(scales.numel() * BLOCK // 2, dtype=torch.uint8, device=flat.device)
    programs = (-(-scales.numel() // _AT_ONCE),)
    _kernels()[0][programs](flat, scales, borders(flat.device), packed, flat.numel(), HALF=BLOCK // 2, BLOCKS=_AT_ONCE)
    return packed


def pack_twin(flat: Tensor, scales: Tensor) -> Tensor:
    """Return what `pack` does, by plain torch."""
    padded = torch.zeros(scales.numel() * BLOCK, dtype=torch.float32, device=flat.device)
    padded[: flat.numel()] = flat
    shares = padded.view(-1, BLOCK) / torch.where(scales > 0, scales, torch.ones_like(scales))[:, None]
    codes = torch.bucketize(shares, borders(flat.device), out_int32=True).to(torch.uint8).view(-1, 2)
    return codes[:, 0] << 4 | codes[:, 1]


def unpack(packed: Tensor, codes: Tensor, grid: Tensor, out: Tensor) -> None:
    """Write the weights that `packed`, the codes of the scales and their grid stand for into `out` [N], contiguous."""
    if not runs(packed) or out.dtype == torch.float64:
        unpack_twin(packed, codes, grid, out)
        return
    programs = (-(-codes.numel() // _AT_ONCE),)
    _kernels()[1][programs](
        packed, codes, grid, levels(packed.device), out, out.numel(), HALF=BLOCK // 2, GROUP=GROUP, BLOCKS=_AT_ONCE
    )


def unpack_twin(packed: Tensor, codes: Tensor, grid: Tensor, out: Tensor) -> None:
    """Do what `unpack` does, by plain torch."""
    both = torch.stack([packed >> 4, packed & 15], dim=1).flatten().int()
    values = levels(packed.device)[both].view(-1, BLOCK) * scales_of(codes, grid)[:, None]
    out.copy_(values.flatten()[: out.numel()])


@cache
def _kernels() -> tuple[Any, Any]:
    """Return the two kernels; made at first use, because Triton may be absent."""
    import triton
    import triton.language as tl

    @triton.jit
    def pack_blocks(flat, scales, borders, packed, count, HALF: tl.constexpr, BLOCKS: tl.constexpr):
        """One program packs BLOCKS blocks: the code of a weight is the number of borders below it."""
        block = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
        byte = block[:, None] * HALF + tl.arange(0, HALF)[None, :]
        scale = tl.load(scales + block, mask=block * (2 * HALF) < count, other=1.0)
        scale = tl.where(scale > 0, scale, 1.0)[:, None]
        first = tl.load(flat + 2 * byte, mask=2 * byte < count, other=0.0).to(tl.float32)
        second = tl.load(flat + 2 * byte + 1, mask=2 * byte + 1 < count, other=0.0).to(tl.float32)
        first = tl.div_rn(first, tl.broadcast_to(scale, first.shape))
        second = tl.div_rn(second, tl.broadcast_to(scale, second.shape))
        upper = tl.zeros(first.shape, dtype=tl.int32)
        lower = tl.zeros(first.shape, dtype=tl.int32)
        for number in tl.static_range(15):
            border = tl.load(borders + number)
            upper += (first > border).to(tl.int32)
            lower += (second > border).to(tl.int32)
        inside = tl.broadcast_to((block * (2 * HALF) < count)[:, None], first.shape)
        tl.store(packed + byte, (upper * 16 + lower).to(tl.uint8), mask=inside)

    @triton.jit
    def unpack_blocks(
        packed, codes, grid, levels, out, count, HALF: tl.constexpr, GROUP: tl.constexpr, BLOCKS: tl.constexpr
    ):
        """One program unpacks BLOCKS blocks; each scale is computed once."""
        block = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
        is_there = block * (2 * HALF) < count
        low = tl.load(grid + block // GROUP * 2, mask=is_there, other=0.0)
        step = tl.load(grid + block // GROUP * 2 + 1, mask=is_there, other=0.0)
        scale = low + tl.load(codes + block, mask=is_there, other=0).to(tl.float32) * step
        byte = block[:, None] * HALF + tl.arange(0, HALF)[None, :]
        both = tl.load(packed + byte, mask=is_there[:, None], other=0).to(tl.int32)
        upper = tl.load(levels + (both >> 4)) * scale[:, None]
        lower = tl.load(levels + (both & 15)) * scale[:, None]
        values = tl.interleave(upper, lower)
        place = block[:, None] * (2 * HALF) + tl.arange(0, 2 * HALF)[None, :]
        tl.store(out + place, values.to(out.dtype.element_ty), mask=place < count)

    return pack_blocks, unpack_blocks
