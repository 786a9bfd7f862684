"""The AdamW kernel does what its twin does, halves of a weight are its whole, and eight bits keep what matters."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from attune.model.kernels import adamw, is_interpreted
from attune.model.kernels.adamw import Numbers, Slot, update_twin, widen
from tests.model.interpreted import interpreted

NUMBERS = Numbers(lr=1e-3, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1)
SIZES = (77, 4096, 16_401)  # less than a block, a part of a program, one program and a rest
KINDS = [  # weight, gradient, bits, rounding
    (torch.float32, torch.float32, 32, "master"),
    (torch.float32, torch.bfloat16, 8, "master"),
    (torch.bfloat16, torch.bfloat16, 32, "master"),
    (torch.bfloat16, torch.float32, 32, "stochastic"),
    (torch.bfloat16, torch.bfloat16, 8, "master"),
    (torch.bfloat16, torch.bfloat16, 8, "stochastic"),
]


def make_slot(
    size: int, weight: torch.dtype, grad: torch.dtype, *, bits: int, rounding: str, first: int = 0, seed: int = 0
) -> Slot:
    """Return a random weight in mid-training; `first`: how many values it stands away from where memory is aligned."""
    source = torch.Generator().manual_seed(seed + size)
    mean = torch.randn(size, generator=source) * 1e-3
    square = torch.rand(size, generator=source) ** 4 * 1e-5
    scales: tuple[Tensor | None, Tensor | None] = (None, None)
    if bits == 8:
        (mean, one), (square, two) = adamw.quantise_mean(mean), adamw.quantise_square(square)
        scales = (one, two)
    low = torch.randint(-(2**15), 2**15, (size,), generator=source).to(torch.int16)
    return Slot(
        weight=torch.randn(size + first, generator=source).to(weight)[first:],
        grad=(torch.randn(size, generator=source) * 1e-2).to(grad),
        step=torch.tensor(3.0),
        exp_avg=mean,
        exp_avg_sq=square,
        exp_avg_scale=scales[0],
        exp_avg_sq_scale=scales[1],
        low=low if weight == torch.bfloat16 and rounding == "master" else None,
        seed=3_000_000_019,
    )


def on_device(slot: Slot, device: torch.device | str) -> Slot:
    """Return a copy of a slot, there."""
    values: dict[str, Any] = {field.name: getattr(slot, field.name) for field in fields(Slot)}
    tensors: dict[str, Any] = {
        key: value.to(device, copy=True) for key, value in values.items() if isinstance(value, Tensor)
    }
    return replace(slot, **tensors)


def copy_of(slot: Slot) -> Slot:
    """Return a slot with tensors of its own."""
    return on_device(slot, slot.weight.device)


def exact(slot: Slot) -> Slot:
    """Return the same weight, gradient and moments in float64."""
    mean, square = adamw.read_moments(slot)
    return replace(
        slot, weight=widen(slot.weight, slot.low).double(), grad=slot.grad.double(), exp_avg=mean.double(),
        exp_avg_sq=square.double(), exp_avg_scale=None, exp_avg_sq_scale=None, low=None,
    )  # fmt: skip


def worst(found: Slot, before: Slot, factor: Tensor) -> float:
    """Return how far an updated slot is from the float64 twin's result, in units of what its storage can hold (1)."""
    want = exact(before)
    update_twin([want], NUMBERS, factor=factor.double(), finite=None)
    size = want.weight.abs() + widen(before.weight, before.low).abs() + 1e-3
    ulp = 2.0**-7 if found.weight.dtype == torch.bfloat16 and found.low is None else 2.0**-21
    faults = [((widen(found.weight, found.low) - want.weight).abs() / size / ulp).max()]
    mean, square = adamw.read_moments(found)
    if found.exp_avg_scale is None or found.exp_avg_sq_scale is None:
        faults += [((mean - want.exp_avg).abs() / want.exp_avg.abs().max()).max() / 1e-6]
        faults += [((square - want.exp_avg_sq).abs() / want.exp_avg_sq.abs().max()).max() / 1e-6]
    else:  # half a code's width in the root, and a little for float32
        tops = [adamw.spread(top.double(), mean) for top in (found.exp_avg_scale, found.exp_avg_sq_scale)]
        one, two = (mean.double() / tops[0]).abs().sqrt(), (want.exp_avg / tops[0]).abs().sqrt()
        faults += [((one - two).abs().max()) * 127 / 0.502]
        one, two = (square.double() / tops[1]) ** 0.25, (want.exp_avg_sq / tops[1]) ** 0.25
        faults += [((one - two).abs() - 0.5 / 255 * (found.exp_avg_sq == 1)).max() * 255 / 0.502]
    return float(max(faults))


@interpreted
@pytest.mark.parametrize(("kind", "first"), [*((kind, 0) for kind in KINDS), (KINDS[1], 1), (KINDS[2], 1)], ids=str)
def test_interpreted_kernel(kind: tuple[torch.dtype, torch.dtype, int, str], first: int) -> None:
    """Several weights at once, aligned in memory or not, against float64, and against the twin in the same bits."""
    from attune.model.kernels.adamw_triton import launch

    weight, grad, bits, rounding = kind
    factor = torch.tensor(0.7)
    before = [make_slot(size, weight, grad, bits=bits, rounding=rounding, first=first) for size in SIZES]
    found, twins = [copy_of(slot) if first == 0 else slot for slot in before], [copy_of(slot) for slot in before]
    before = [copy_of(slot) for slot in before]
    launch(found, NUMBERS, factor=factor, finite=torch.tensor(1.0))
    update_twin(twins, NUMBERS, factor=factor, finite=torch.tensor(True))
    for one, two, start in zip(found, twins, before, strict=True):
        assert worst(one, start, factor) <= 1
        assert worst(two, start, factor) <= 1, "the twin in the weight's own precision"
        same = (widen(one.weight, one.low) == widen(two.weight, two.low)).float().mean()
        assert same > 0.95, "only roundings differ, so the noise of stochastic rounding is the same"


@interpreted
def test_interpreted_kernel_leaves_all_alone() -> None:
    """Where the gradient is not finite, nothing is written."""
    from attune.model.kernels.adamw_triton import launch

    for weight, grad, bits, rounding in KINDS:
        before = make_slot(5000, weight, grad, bits=bits, rounding=rounding)
        slot = copy_of(before)
        slot.grad[7] = torch.nan
        launch([slot], NUMBERS, factor=torch.tensor(torch.nan), finite=torch.tensor(0.0))
        for name in ("weight", "exp_avg", "exp_avg_sq", "exp_avg_scale", "exp_avg_sq_scale", "low"):
            kept, start = getattr(slot, name), getattr(before, name)
            assert (kept is None and start is None) or torch.equal(kept, start), name


@interpreted
def test_interpreted_mutants(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel with a wrong bias correction, or one that takes the lower half of another weight, is found out."""
    from attune.model.kernels import adamw_triton

    before = make_slot(4096, torch.bfloat16, torch.bfloat16, bits=32, rounding="master")
    factor, finite = torch.tensor(0.7), torch.tensor(1.0)
    monkeypatch.setattr(adamw_triton, "_log", lambda beta: -0.1)
    slot = copy_of(before)
    adamw_triton.launch([slot], NUMBERS, factor=factor, finite=finite)
    assert worst(slot, before, factor) > 10
    monkeypatch.undo()
    slot = replace(copy_of(before), low=torch.zeros(4096, dtype=torch.int16))
    adamw_triton.launch([slot], NUMBERS, factor=factor, finite=finite)
    assert worst(slot, before, factor) > 10


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_kernel_on_a_gpu(kind: tuple[torch.dtype, torch.dtype, int, str]) -> None:
    """The same comparison with float64 for what the compiler made of the kernel."""
    weight, grad, bits, rounding = kind
    factor = torch.tensor(0.7)
    before = [make_slot(size, weight, grad, bits=bits, rounding=rounding) for size in SIZES]
    moved = [on_device(slot, "cuda") for slot in before]
    adamw.update(moved, NUMBERS, factor=factor.cuda(), finite=torch.tensor(True).cuda())
    for slot, start in zip(moved, before, strict=True):
        assert worst(on_device(slot, "cpu"), start, factor) <= 1


def test_two_halves_are_the_whole() -> None:
    """bfloat16 and its lower half give back every float32: ties, both zeros, the smallest, the largest, infinity."""
    bits = torch.tensor([0x3F808000, 0x3F818000, 0x3F80FFFF, 0x3F807FFF, 1, 0x7F7FFFFF, 0x7F800000], dtype=torch.int32)
    special = torch.cat([bits.view(torch.float32), torch.zeros(1)])
    values = torch.cat([special, -special, torch.randn(10_000, generator=torch.Generator().manual_seed(0))])
    high, low = adamw.split(values)
    assert torch.equal(widen(high, low).view(torch.int32), values.view(torch.int32))
    no_tie = (values.view(torch.int32) & 0xFFFF) != 0x8000
    assert torch.equal(high[no_tie], values[no_tie].bfloat16()), "the nearest, as torch rounds"


def test_rounding_at_random_is_right_on_average() -> None:
    """The mean over many draws is the value itself; no draw leaves the two neighbours."""
    values = torch.full((200_000,), 1.0 + 2.0**-7 * 0.3)
    draws = adamw.round_at_random(values, adamw.draw_bits(values, seed=5, step=torch.tensor(1.0))).float()
    assert set(draws.unique().tolist()) == {1.0, 1.0 + 2.0**-7}
    assert float(((draws - 1) * 2**7).mean()) == pytest.approx(0.3, abs=4e-3)  # four standard errors
    exact_ones = torch.full((1000,), -1.5)
    assert torch.equal(adamw.round_at_random(exact_ones, adamw.draw_bits(exact_ones, seed=5, step=torch.tensor(1.0))).float(), exact_ones)  # fmt: skip # noqa: E501


def test_noise_is_a_function_of_seed_step_and_place() -> None:
    """The same three give the same bits, another of any gives unrelated ones; every bit is on half of the time."""
    like = torch.empty(40_000)

    def draw(seed: int, step: float) -> Tensor:
        return adamw.draw_bits(like, seed=seed, step=torch.tensor(step))

    first = draw(1, 1.0)
    assert torch.equal(first, draw(1, 1.0))
    for other in (draw(2, 1.0), draw(1, 2.0), first.roll(1)):
        differ = first ^ other
        shares = torch.stack([(differ >> bit & 1).float().mean() for bit in range(32)])
        assert float((shares - 0.5).abs().max()) < 0.0125  # five standard errors
    shares = torch.stack([(first >> bit & 1).float().mean() for bit in range(32)])
    assert float((shares - 0.5).abs().max()) < 0.0125


@pytest.mark.parametrize("size", [256, 1000])
def test_eight_bits_are_close(size: int) -> None:
    """Means keep their sign and are off by at most 1.2 % of the largest, half of them by under 3 % of themselves."""
    values = torch.randn(size, generator=torch.Generator().manual_seed(0)) * 1e-4
    code, top = adamw.quantise_mean(values)
    back = adamw.restore_mean(code, top)
    assert code.dtype == torch.int8 and top.shape == (-(-size // 256),)
    assert float((back - values).abs().max() / values.abs().max()) < 0.012
    assert float(((back - values) / values).abs().median()) < 0.03
    assert torch.equal(back.sign() * values.sign() >= 0, torch.ones(size, dtype=torch.bool))
    squares = values.square()
    restored = adamw.restore_square(*adamw.quantise_square(squares))
    assert float(((restored - squares) / squares).abs().median()) < 0.02


def test_small_squares_are_never_lost() -> None:
    """A mean square above zero stays so, however large its neighbours; zero stays zero, a block of zeros too."""
    values = torch.tensor([0.0, 1e-30, 1e-12, 1.0] + [0.0] * 300)
    restored = adamw.restore_square(*adamw.quantise_square(values))
    assert restored[0] == 0 and bool((restored[1:4] > 0).all()) and bool((restored[256:] == 0).all())
    assert bool((restored >= values * 0.98).all())


def test_the_kernel_compiles_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: what the compiler makes of it reads and writes aligned weights 16 bytes at a time."""
    pytest.importorskip("triton")
    if is_interpreted():
        pytest.skip("the interpreter compiles nothing")
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from attune.model.kernels import adamw_triton

    names = adamw_triton.update.arg_names
    types = {"table": "*i64", "owners": "*i32", "parts": "*i32", "factor": "*fp32", "finite": "*fp32"}
    constants = {"WEIGHT": 1, "GRAD": 2, "EIGHT": True, "ALIGNED": True, "ROWS": 8, "TILES": 8}
    signature = {name: "constexpr" if name in constants else types.get(name, "fp32") for name in names}
    places = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=adamw_triton.update, signature=signature, constexprs=places)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
    assert "ld.global.v4.b32" in made and "st.global.v4.b32" in made
    assert "ld.global.b16" not in made and "st.global.b8" not in made
