"""The Triton kernel of AdamW: all weights of a kind in one launch, found through a table of addresses.

Imported only where kernels run. bfloat16 values are read and written as the upper 16 bits of a float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from math import log

import torch
import triton
import triton.language as tl
from torch import Tensor

from attune.model.kernels.adamw import BLOCK, Numbers, Slot

ROWS, TILES = 4, 8  # a program works through 8 tiles of 4 rows of 256 values
_FLOAT32, _BFLOAT16, _STOCHASTIC = 0, 1, 2


@triton.jit
def aim(address: tl.tensor, TYPE: tl.constexpr, ALIGNED: tl.constexpr) -> tl.tensor:
    """Return an address as a pointer; what is aligned is read and written 16 bytes at a time."""
    pointer = address.to(tl.pointer_type(TYPE))
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def load(
    address: tl.tensor, place: tl.tensor, inside: tl.tensor, TYPE: tl.constexpr, ALIGNED: tl.constexpr
) -> tl.tensor:
    """Return values as they lie there; 0 outside."""
    return tl.load(aim(address, TYPE, ALIGNED) + place, mask=inside, other=0)


@triton.jit
def load_weight(
    weights: tl.tensor,
    lows: tl.tensor,
    place: tl.tensor,
    inside: tl.tensor,
    WEIGHT: tl.constexpr,
    ALIGNED: tl.constexpr,
) -> tl.tensor:
    """Return weights as float32, exactly so with their lower halves (WEIGHT 1)."""
    if WEIGHT == 0:
        values = load(weights, place, inside, tl.float32, ALIGNED)
    else:
        bits = load(weights, place, inside, tl.int16, ALIGNED).to(tl.int32) << 16
        if WEIGHT == 1:
            bits += load(lows, place, inside, tl.int16, ALIGNED).to(tl.int32)
        values = bits.to(tl.float32, bitcast=True)
    return values


@triton.jit
def store_weight(
    weights: tl.tensor, lows: tl.tensor, values: tl.tensor, noise: tl.tensor, place: tl.tensor, inside: tl.tensor,
    WEIGHT: tl.constexpr, ALIGNED: tl.constexpr,
) -> None:  # fmt: skip
    """Write float32 values as float32 (WEIGHT 0), as two halves (1), or rounded at random (2)."""
    if WEIGHT == 0:
        tl.store(aim(weights, tl.float32, ALIGNED) + place, values, mask=inside)
    else:
        bits = values.to(tl.int32, bitcast=True)
        if WEIGHT == 1:
            upper = (bits + 0x8000) >> 16
            tl.store(aim(lows, tl.int16, ALIGNED) + place, (bits - (upper << 16)).to(tl.int16), mask=inside)
        else:
            upper = (bits + (noise & 0xFFFF).to(tl.int32)) >> 16
        tl.store(aim(weights, tl.int16, ALIGNED) + place, upper.to(tl.int16), mask=inside)


@triton.jit
def inverse(top: tl.tensor) -> tl.tensor:
    """Return 1 / top of each block; 0 for a block so small that this would overflow."""
    return tl.where(top > 1.2e-38, 1.0 / tl.where(top > 1.2e-38, top, 1.0), 0.0)


@triton.jit
def load_mean(
    means: tl.tensor,
    scales: tl.tensor,
    place: tl.tensor,
    row: tl.tensor,
    inside: tl.tensor,
    full: tl.tensor,
    ALIGNED: tl.constexpr,
) -> tl.tensor:
    """Return means from 8 bits: the signed square of the code, times the largest of its block."""
    code = load(means, place, inside, tl.int8, ALIGNED).to(tl.float32)
    top = load(scales, row, full, tl.float32, ALIGNED)
    share = code * (1.0 / 127.0)
    return tl.where(code < 0, -share * share, share * share) * top[:, None]


@triton.jit
def store_mean(
    means: tl.tensor, scales: tl.tensor, values: tl.tensor, place: tl.tensor, row: tl.tensor,
    inside: tl.tensor, full: tl.tensor, ALIGNED: tl.constexpr,
) -> None:  # fmt: skip
    """Write means in 8 bits, and the largest of each block."""
    top = tl.max(tl.abs(values), axis=1)
    tl.store(aim(scales, tl.float32, ALIGNED) + row, top, mask=full)
    share = tl.abs(values) * inverse(top)[:, None]
    size = tl.floor(127.0 * tl.sqrt(share) + 0.5)
    code = tl.where(values < 0, -size, size).to(tl.int8)
    tl.store(aim(means, tl.int8, ALIGNED) + place, code, mask=inside)


@triton.jit
def load_square(
    squares: tl.tensor,
    scales: tl.tensor,
    place: tl.tensor,
    row: tl.tensor,
    inside: tl.tensor,
    full: tl.tensor,
    ALIGNED: tl.constexpr,
) -> tl.tensor:
    """Return mean squares from 8 bits: the fourth power of the code, times the largest of its block."""
    share = load(squares, place, inside, tl.uint8, ALIGNED).to(tl.float32) * (1.0 / 255.0)
    top = load(scales, row, full, tl.float32, ALIGNED)
    share = share * share
    return share * share * top[:, None]


@triton.jit
def store_square(
    squares: tl.tensor, scales: tl.tensor, values: tl.tensor, place: tl.tensor, row: tl.tensor,
    inside: tl.tensor, full: tl.tensor, ALIGNED: tl.constexpr,
) -> None:  # fmt: skip
    """Write mean squares in 8 bits, and the largest of each block; what is above 0 stays above 0."""
    top = tl.max(values, axis=1)
    tl.store(aim(scales, tl.float32, ALIGNED) + row, top, mask=full)
    share = values * inverse(top)[:, None]
    size = tl.floor(255.0 * tl.sqrt(tl.sqrt(share)) + 0.5)
    size = tl.where(values > 0, tl.where(size < 1.0, 1.0, size), 0.0)
    tl.store(aim(squares, tl.uint8, ALIGNED) + place, size.to(tl.uint8), mask=inside)


@triton.jit
def correction(step: tl.tensor, log_beta: tl.tensor) -> tl.tensor:
    """Return 1 - beta^step, without cancellation where beta^step is near 1."""
    x = step * log_beta
    series = 1 + x / 6 * (1 + x / 7 * (1 + x / 8 * (1 + x / 9)))
    series = -x * (1 + x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5 * series))))
    return tl.where(x > -0.5, series, 1 - tl.exp(x))


@triton.jit
def scramble(x: tl.tensor) -> tl.tensor:
    """Return uint32 values scrambled as `mix_bits` does."""
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D
    x = x ^ (x >> 15)
    x = x * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def update(
    table: tl.tensor, owners: tl.tensor, parts: tl.tensor, factor: tl.tensor, finite: tl.tensor,
    lr: tl.tensor, decay: tl.tensor, eps: tl.tensor, beta1: tl.tensor, beta2: tl.tensor,
    rest1: tl.tensor, rest2: tl.tensor, log1: tl.tensor, log2: tl.tensor,
    WEIGHT: tl.constexpr, GRAD: tl.constexpr, EIGHT: tl.constexpr, ALIGNED: tl.constexpr,
    ROWS: tl.constexpr, TILES: tl.constexpr,
) -> None:  # fmt: skip
    """Update ROWS * 256 * TILES values of one weight. GRAD: 0 float32, 2 bfloat16."""
    program = tl.program_id(0)
    line = table + tl.load(owners + program).to(tl.int64) * 10
    weights, grads, steps, means = tl.load(line), tl.load(line + 1), tl.load(line + 2), tl.load(line + 3)
    squares, mean_scales, square_scales = tl.load(line + 4), tl.load(line + 5), tl.load(line + 6)
    lows, count, seed = tl.load(line + 7), tl.load(line + 8), tl.load(line + 9).to(tl.uint32)
    is_finite = tl.load(finite) != 0
    count = tl.where(is_finite, count, 0)  # else nothing is read or written
    if ALIGNED:
        count = tl.multiple_of(count, 16)
    scale = tl.where(is_finite, tl.load(factor), 0.0)
    step = tl.load(aim(steps, tl.float32, False))
    rate = tl.div_rn(lr, correction(step, log1))
    root = tl.sqrt_rn(correction(step, log2))
    key = scramble(seed ^ (step.to(tl.uint32) * 0x9E3779B9))
    row = tl.load(parts + program).to(tl.int64) * (ROWS * TILES) + tl.arange(0, ROWS)
    for _ in range(TILES):
        place = row[:, None] * 256 + tl.arange(0, 256)[None, :]
        inside = place < count
        full = row * 256 < count
        grad = load_weight(grads, grads, place, inside, GRAD, ALIGNED) * scale
        weight = load_weight(weights, lows, place, inside, WEIGHT, ALIGNED)
        if EIGHT:
            mean = load_mean(means, mean_scales, place, row, inside, full, ALIGNED)
            square = load_square(squares, square_scales, place, row, inside, full, ALIGNED)
        else:
            mean = load(means, place, inside, tl.float32, ALIGNED)
            square = load(squares, place, inside, tl.float32, ALIGNED)
        mean = beta1 * mean + rest1 * grad
        square = beta2 * square + rest2 * grad * grad
        if EIGHT:  # eight bits need no correctly rounded division, which takes as long as all the rest
            weight = weight * decay - rate * mean / (tl.sqrt(square) / root + eps)
        else:
            weight = weight * decay - rate * tl.div_rn(mean, tl.div_rn(tl.sqrt_rn(square), root) + eps)
        if EIGHT:
            store_mean(means, mean_scales, mean, place, row, inside, full, ALIGNED)
            store_square(squares, square_scales, square, place, row, inside, full, ALIGNED)
        else:
            tl.store(aim(means, tl.float32, ALIGNED) + place, mean, mask=inside)
            tl.store(aim(squares, tl.float32, ALIGNED) + place, square, mask=inside)
        noise = scramble(scramble(place.to(tl.uint32) ^ key) + seed)
        store_weight(weights, lows, weight, noise, place, inside, WEIGHT, ALIGNED)
        row += ROWS


def launch(slots: Sequence[Slot], numbers: Numbers, *, factor: Tensor, finite: Tensor) -> None:
    """Update weights and state in place, as `update_twin` does; one launch for each kind of weight.

    factor, finite: float32 scalars on the device. All tensors are contiguous.
    """
    kinds: dict[tuple[int, int, bool, bool], list[tuple[int, ...]]] = {}
    for slot in slots:
        weight = _FLOAT32 if slot.weight.dtype == torch.float32 else _STOCHASTIC if slot.low is None else _BFLOAT16
        gradient = _FLOAT32 if slot.grad.dtype == torch.float32 else _STOCHASTIC
        line = _line(slot)
        aligned = not any(number % 16 for number in line[:9])
        kinds.setdefault((weight, gradient, slot.exp_avg.dtype == torch.int8, aligned), []).append(line)
    device = factor.device
    rates = (
        numbers.lr, 1 - numbers.lr * numbers.weight_decay, numbers.eps, numbers.beta1, numbers.beta2,
        1 - numbers.beta1, 1 - numbers.beta2, _log(numbers.beta1), _log(numbers.beta2),
    )  # fmt: skip
    for (weight, gradient, eight, aligned), lines in kinds.items():
        owners, parts = _programs(tuple(line[8] for line in lines), device)
        table = torch.tensor(list(chain.from_iterable(lines)), dtype=torch.int64)
        if device.type == "cuda":
            table = table.pin_memory().to(device, non_blocking=True)  # without a wait for the device
        update[(len(owners),)](
            table, owners, parts, factor, finite, *rates,
            WEIGHT=weight, GRAD=gradient, EIGHT=eight, ALIGNED=aligned, ROWS=ROWS, TILES=TILES,
        )  # fmt: skip


def _line(slot: Slot) -> tuple[int, ...]:
    """Return the table's line for a weight: seven addresses, that of `low`, number of values, seed."""
    tensors = (
        slot.weight, slot.grad, slot.step, slot.exp_avg, slot.exp_avg_sq,
        slot.exp_avg_scale, slot.exp_avg_sq_scale, slot.low,
    )  # fmt: skip
    addresses = (0 if tensor is None else tensor.data_ptr() for tensor in tensors)
    return (*addresses, slot.weight.numel(), slot.seed)


@lru_cache(maxsize=32)
def _programs(sizes: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return for each program whose values it updates, and which part of them; int32 [programs], on the device."""
    parts = torch.tensor([-(-size // (ROWS * BLOCK * TILES)) for size in sizes])
    owners = torch.repeat_interleave(torch.arange(len(sizes)), parts)
    first = torch.repeat_interleave(parts.cumsum(0) - parts, parts)
    return owners.int().to(device), (torch.arange(len(owners)) - first).int().to(device)


def _log(beta: float) -> float:
    """Return log(beta), for a decay of 0 so small that its powers vanish."""
    return log(beta) if beta > 0 else -1e4
