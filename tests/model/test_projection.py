"""Projections: products and gradients of layers that share their input are those of PEFT's layers, one by one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from attune.model import projection as real
from attune.model.fp8 import Fp8Linear, Fp8Weight
from attune.model.nf4 import Nf4Weight, Scratch
from attune.model.projection import Projection
from attune.model.stores import HeldLinear
from tests.model.mutants import mutant_of

ROWS, WIDTH, SIZES = 7, 16, {"q_proj": 32, "k_proj": 16, "v_proj": 48}
LORA: dict[str, Any] = {"r": 4, "lora_alpha": 6, "target_modules": list(SIZES)}
UNEQUAL = LORA | {"rank_pattern": {"k_proj": 2}, "alpha_pattern": {"v_proj": 20}}
Linears = list[nn.Module]


def dense(*, bias: bool = False) -> nn.ModuleDict:
    """Return three layers that share their input."""
    torch.manual_seed(0)
    return nn.ModuleDict({name: nn.Linear(WIDTH, out, bias=bias).double() for name, out in SIZES.items()})


def held(*names: str, fp8: bool = False, bias: bool = False) -> nn.ModuleDict:
    """Return the layers with the named ones in 4 bits, or 8."""
    layers = dense(bias=bias)
    for name in names:
        linear: Any = layers[name]
        weight = Fp8Weight(linear.weight) if fp8 else Nf4Weight(linear.weight, Scratch())
        layers[name] = HeldLinear(weight, linear.bias)
    return layers


def trained_in_fp8() -> nn.ModuleDict:
    """Return the layers with weights that are multiplied in 8 bits and train."""
    layers = dense(bias=True)
    for linear in layers.values():
        linear.__class__ = Fp8Linear
        linear.by_row = True  # type: ignore[assignment]
    return layers


def adapted(layers: nn.ModuleDict, **settings: Any) -> Linears:
    """Return the layers, frozen, with LoRA matrices that are not zero."""
    layers.requires_grad_(False)
    layers["other"] = nn.Linear(1, 1)  # PEFT asks for the type of some parameter; held ones are none
    wrapped = inject_adapter_in_model(LoraConfig(**(settings or LORA)), layers)
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.3)
        if weight.requires_grad:
            weight.data = weight.data.double()
    return [wrapped[name] for name in SIZES]


CASES: dict[str, Callable[[], Linears]] = {
    "full": lambda: list(dense().values()),
    "full, bias": lambda: list(dense(bias=True).values()),
    "frozen": lambda: list(dense(bias=True).requires_grad_(False).values()),
    "lora": lambda: adapted(dense()),
    "lora, bias": lambda: adapted(dense(bias=True)),
    "lora on two": lambda: adapted(dense(), **LORA | {"target_modules": ["q_proj", "v_proj"]}),
    "lora on one": lambda: adapted(dense(), **LORA | {"target_modules": ["k_proj"]}),
    "lora, unequal": lambda: adapted(dense(), **UNEQUAL),
    "lora, rank-stabilised": lambda: adapted(dense(), **UNEQUAL, use_rslora=True),
    "nf4": lambda: adapted(held(*SIZES, bias=True)),
    "nf4, unequal": lambda: adapted(held(*SIZES), **UNEQUAL),
    "nf4, rank-stabilised": lambda: adapted(held(*SIZES), **UNEQUAL, use_rslora=True),
    "nf4 on two": lambda: adapted(held("q_proj", "k_proj")),
    "nf4, lora on one": lambda: adapted(held(*SIZES), **LORA | {"target_modules": ["v_proj"]}),
    "fp8": lambda: adapted(held(*SIZES, fp8=True, bias=True)),
    "fp8, unequal": lambda: adapted(held(*SIZES, fp8=True), **UNEQUAL),
    "fp8, full": lambda: list(trained_in_fp8().values()),
}
FP8_TOLERANCE = 1e-5  # products of 8-bit numbers are float32; scales of powers of two lose nothing else


def drawn(*sizes: int, seed: int = 1) -> Tensor:
    """Return random numbers, float64."""
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def parameters_of(linears: Linears) -> list[Tensor]:
    """Return all parameters of the layers, in order."""
    return [part for linear in linears for part in linear.parameters()]


def plainly(linears: Linears, x: Tensor, dy: Tensor) -> tuple[Tensor, dict[Tensor, Tensor]]:
    """Return the layers' own output side by side, and the gradients of x and of what trains, by autograd."""
    leaves = [x.clone().requires_grad_(), *(part for part in parameters_of(linears) if part.requires_grad)]
    y = torch.cat([linear(leaves[0]) for linear in linears], dim=1)
    found = torch.autograd.grad(y, leaves, dy.to(y.dtype))
    return y.detach(), dict(zip([x, *leaves[1:]], found, strict=True))


def compare(
    made: Any,
    wanted: tuple[Tensor, dict[Tensor, Tensor]],
    x: Tensor,
    dy: Tensor,
    *,
    pads: Sequence[bool] = (True, True),
    tolerance: float = 1e-12,
) -> None:
    """Assert that a projection gives the wanted output and gradients; pads: whether x and dy have room for LoRA."""
    y, grads = wanted
    close: Any = lambda one, two: torch.testing.assert_close(one, two, rtol=tolerance, atol=tolerance)  # noqa: E731
    with torch.no_grad():
        given, outer = x.clone(), dy.clone()
        if pads[0]:
            given = made.room_for_input(ROWS, x)
            given[:, :WIDTH] = x
        if pads[1]:
            outer = made.room_for_gradient(ROWS, dy)
            outer[:, : sum(SIZES.values())] = dy
        product, low = made.times(given)
        close(product, y)
        dx, d_low = made.back(outer, low, needs_x=True)
        close(dx, grads[x])
        found = made.back_parameters(outer, given if pads[0] else x, low=low, d_low=d_low)
        assert made.back(outer, low, needs_x=False)[0] is None
    assert len(found) == len(made.parameters)
    seen = {leaf for leaf, grad in zip(made.parameters, found, strict=True) if grad is not None and leaf.requires_grad}
    assert seen == grads.keys() - {x}
    for leaf, grad in zip(made.parameters, found, strict=True):
        if leaf in grads:
            assert grad.dtype == leaf.dtype and grad.shape == leaf.shape
            close(grad, grads[leaf])


def check(module: ModuleType, case: str) -> None:
    """Compare a projection with its layers, with room for LoRA's columns or without."""
    x, dy = drawn(ROWS, WIDTH), drawn(ROWS, sum(SIZES.values()), seed=2)
    linears = CASES[case]()
    wanted = plainly(linears, x, dy)
    made = module.Projection(linears)
    assert made.trains == (case != "frozen")
    tolerance = FP8_TOLERANCE if "fp8" in case else 1e-12
    for pads in itertools.product((False, True), repeat=2):
        compare(made, wanted, x, dy, pads=pads, tolerance=tolerance)


def survives(module: ModuleType, case: str) -> bool:
    """Whether the comparison finds nothing wrong with a module."""
    try:
        check(module, case)
    except (AssertionError, RuntimeError):
        return False
    return True


@pytest.mark.parametrize("case", CASES)
def test_it_is_its_layers(case: str) -> None:
    """For every way in which weights are held and adapted."""
    check(real, case)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("self.width + lora.low.start, self.width + lora.low.stop", "self.width, self.width + len(lora.down)"),
        ("torch.mm(outer[:, lora.rows], up", "torch.mm(outer[:, : len(lora.up)], up"),
        ("self._scale(d_low)", "pass"),
        ("low[:, lora.low].mul_(lora.scale)", "low[:, lora.low].mul_(scales[0])"),
        ("y[:, lora.rows].addmm_", "y[:, : len(lora.up)].addmm_"),
        ("place = slice(low, low + int(down.shape[0]))", "place = slice(0, int(down.shape[0]))"),
        ("        row += out\n", ""),
        ("dx.addmm_(d_low, torch.cat", "dx.addmm_(d_low, -torch.cat"),
        ("outer.sum(0) if any", "outer[0] if any"),
    ],
)
def test_a_broken_projection_is_seen(tmp_path: Path, old: str, new: str) -> None:
    """The comparisons find each of these faults."""
    broken = mutant_of(real, tmp_path, old=old, new=new)
    assert not all(survives(broken, case) for case in ("full, bias", "lora, unequal", "nf4, unequal", "lora on one"))


@pytest.mark.parametrize("case", ["lora", "lora, unequal", "nf4 on two"])
def test_a_norm_before_it_need_not_be_computed_again(case: str) -> None:
    """LoRA's gradients from what the norm was given, its scales and its gain are those from what it gave."""
    made = Projection(CASES[case]())
    assert made.trains_lora_alone
    raw, dy, scales, gain = drawn(ROWS, WIDTH), drawn(ROWS, 96, seed=2), drawn(ROWS, seed=3), drawn(WIDTH, seed=4)
    normed = raw * scales[:, None] * gain
    with torch.no_grad():
        _, low = made.times(normed)
        _, d_low = made.back(dy, low, needs_x=True)
        wanted = made.back_parameters(dy, normed, low=low, d_low=d_low)
        found = made.back_parameters(dy, raw, low=low, d_low=d_low, norm=(scales, gain))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
    assert not Projection(CASES["full"]()).trains_lora_alone


@pytest.mark.parametrize("case", ["lora, bias", "nf4"])
def test_adapters_that_are_switched_off(case: str) -> None:
    """A disabled adapter adds nothing and learns nothing; enabled again, it does both."""
    x, dy = drawn(ROWS, WIDTH), drawn(ROWS, 96, seed=2)
    linears: list[Any] = CASES[case]()
    made = Projection(linears)
    adapted_way = plainly(linears, x, dy)
    for linear in linears:
        linear.enable_adapters(enabled=False)
    assert made.room_for_input(ROWS, x).shape == (ROWS, WIDTH)
    compare(made, plainly(linears, x, dy), x, dy)
    for linear in linears:
        linear.enable_adapters(enabled=True)
    compare(made, adapted_way, x, dy)


@pytest.mark.parametrize("case", ["lora", "lora, unequal"])
def test_adapters_that_are_merged(case: str) -> None:
    """Merged, the product is the same and no adapter learns; unmerged, all is as before."""
    x, dy = drawn(ROWS, WIDTH), drawn(ROWS, 96, seed=2)
    linears: list[Any] = CASES[case]()
    made = Projection(linears)
    y, grads = plainly(linears, x, dy)
    for linear in linears:
        linear.merge()
    compare(made, (y, {x: grads[x]}), x, dy)
    for linear in linears:
        linear.unmerge()
    compare(made, (y, grads), x, dy)


@pytest.mark.parametrize("case", ["full, bias", "lora, unequal", "nf4", "fp8, full"])
def test_weights_that_an_optimizer_changes(case: str) -> None:
    """What is written into the parameters after fusing is what is computed with."""
    x, dy = drawn(ROWS, WIDTH), drawn(ROWS, 96, seed=2)
    linears = CASES[case]()
    made = Projection(linears)
    with torch.no_grad():
        made.times(x)
        for part in made.parameters:
            if part.requires_grad:
                part.add_(0.1 * torch.randn_like(part))
    compare(made, plainly(linears, x, dy), x, dy, tolerance=FP8_TOLERANCE if "fp8" in case else 1e-12)


@pytest.mark.parametrize("case", ["full", "lora"])
def test_weights_that_were_moved_are_refused(case: str) -> None:
    """Layers that were given other memory, as by model.to, are not computed with the old one in silence."""
    linears: list[Any] = CASES[case]()
    made = Projection(linears)
    for linear in linears:
        moved = linear.get_base_layer() if case == "lora" else linear
        moved.weight.data = moved.weight.data + 1
    x, dy = drawn(ROWS, WIDTH), drawn(ROWS, 96, seed=2)
    with pytest.raises(AssertionError, match="fused weights were moved"), torch.no_grad():
        made.times(x)
    with pytest.raises(AssertionError, match="fused weights were moved"), torch.no_grad():
        made.back(dy, None, needs_x=True)


def test_fused_weights_share_memory() -> None:
    """Nothing is held twice: each layer's weight is a part of what is multiplied."""
    for case, shape in (("full", (96, WIDTH)), ("lora", (96 + 12, WIDTH + 12))):
        linears: list[Any] = CASES[case]()
        made = Projection(linears)
        weights = [linear.get_base_layer().weight if case == "lora" else linear.weight for linear in linears]
        storage = {weight.untyped_storage().data_ptr() for weight in weights}
        assert len(storage) == 1
        assert weights[0].untyped_storage().nbytes() == 8 * shape[0] * shape[1]
        assert (made.joint is None) == (case == "full")


@pytest.mark.parametrize("case", ["full, bias", "lora, bias", "lora, unequal", "nf4", "nf4 on two"])
@pytest.mark.parametrize("weights", [torch.bfloat16, torch.float32], ids=["bfloat16", "mixed"])
def test_products_in_16_bits(case: str, weights: torch.dtype) -> None:
    """Weights of 16 bits, or of 32 for 16-bit inputs: all is right to rounding, and LoRA's gradients stay float32."""
    x, dy = drawn(ROWS, WIDTH).bfloat16(), drawn(ROWS, 96, seed=2).bfloat16()
    exact, linears = CASES[case](), CASES[case]()
    y, grads = plainly(exact, wide := x.double(), dy.double())
    for linear in linears:
        for name, part in linear.named_parameters():
            part.data = part.data.to(torch.float32 if "lora" in name else weights)
    twins = dict(zip(parameters_of(linears), parameters_of(exact), strict=True))
    made = Projection(linears)
    with torch.no_grad():
        given, outer = made.room_for_input(ROWS, x), made.room_for_gradient(ROWS, dy)
        given[:, :WIDTH], outer[:, :96] = x, dy
        product, low = made.times(given)
        dx, d_low = made.back(outer, low, needs_x=True)
        found = made.back_parameters(outer, given, low=low, d_low=d_low)
    assert dx is not None and product.dtype == dx.dtype == torch.bfloat16
    pairs = [(product, y), (dx, grads[wide])]
    for leaf, grad in zip(made.parameters, found, strict=True):
        if leaf.requires_grad:
            assert grad is not None and grad.dtype == leaf.dtype
            pairs.append((grad, grads[twins[leaf]]))
    assert len(pairs) == len(grads) + 1
    for one, other in pairs:
        assert float((one.double() - other).norm() / other.norm()) < 1e-2
