"""Root-mean-square norms: the twin against autograd of the formula in float64, the kernels against the same."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from attune.model.kernels import norm as real
from tests.model.interpreted import as_twin, interpreted
from tests.model.mutants import mutant_of

TRITON = "attune.model.kernels.norm_triton"
EPS = 1e-3


@dataclass(frozen=True)
class Types:
    """Of the residual stream, of the weight, and of what is computed with the result."""

    stream: torch.dtype
    weight: torch.dtype
    inner: torch.dtype


KINDS = {
    "float64": Types(torch.float64, torch.float64, torch.float64),
    "float32": Types(torch.float32, torch.float32, torch.float32),
    "bfloat16": Types(torch.bfloat16, torch.bfloat16, torch.bfloat16),
    "mixed": Types(torch.float32, torch.float32, torch.bfloat16),
}


def formula(x: Tensor, weight: Tensor) -> Tensor:
    """Return the norm as the paper has it."""
    return weight * x / torch.sqrt(x.square().mean(-1, keepdim=True) + EPS)


def close(found: Tensor, wanted: Tensor) -> None:
    """Assert that `found` is `wanted` [float64], rounded once to its type; the interpreter cuts where it rounds."""
    digits = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2**-7}
    rtol = digits[found.dtype]
    torch.testing.assert_close(found.double(), wanted, rtol=rtol, atol=min(rtol, 2e-6))


def room(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Return memory for results with five columns that are not theirs."""
    return torch.full((rows, columns + 5), 7.0, dtype=dtype)


def check(module: ModuleType, kind: Types, columns: int, *, has_add: bool, has_out: bool) -> None:
    """Compare the norm of five rows and its gradients with the formula's, both with something added or not."""
    source = torch.Generator().manual_seed(0)
    x, upper = (torch.randn(5, columns, generator=source).to(kind.stream) for _ in range(2))
    x[1] *= 1e-2  # where eps counts
    weight = (1 + torch.randn(columns, generator=source)).to(kind.weight)
    other, grad = (torch.randn(5, columns, generator=source).to(kind.inner) for _ in range(2))
    total = (x.double() + other.double() if has_add else x.double()).to(kind.stream)
    exact = [part.double().requires_grad_() for part in (total, weight)]
    wanted = formula(*exact)
    wanted.backward(grad.double())

    out = room(5, columns, kind.inner) if has_out else None
    add = other.clone() if has_add else None
    scales = torch.empty(5, dtype=torch.promote_types(kind.stream, torch.float32)) if has_add else None
    added, normed = module.rms_norm(x, weight, eps=EPS, dtype=kind.inner, add=add, out=out, scales=scales)
    assert added.dtype == kind.stream and normed.dtype == kind.inner
    close(added, total.double())
    if added.dtype == torch.bfloat16:  # the norm is that of what was stored; the interpreter stores another last digit
        wanted = formula(added.double(), weight.double())
    close(normed, wanted.detach())
    if scales is not None:
        close(scales, 1 / torch.sqrt(added.double().square().mean(-1) + EPS))
    if has_add and kind.inner == kind.stream:
        assert added is add, "the sum takes the place of what was added"

    place = room(5, columns + 3, kind.stream)[:, 3:] if has_out else None
    past = room(5, columns, kind.stream)[:, :columns].copy_(upper) if has_add else None
    dx, d_weight = module.rms_norm_backward(grad, total, weight, eps=EPS, add=past, needs_weight=True, out=place)
    assert exact[0].grad is not None and exact[1].grad is not None
    close(dx, exact[0].grad + (upper.double() if has_add else 0))
    close(d_weight, exact[1].grad)
    assert d_weight.dtype == kind.weight
    again, nothing = module.rms_norm_backward(grad, total, weight, eps=EPS, add=past, needs_weight=False)
    assert nothing is None and torch.equal(again, dx)
    if out is not None and place is not None:
        assert normed.data_ptr() == out.data_ptr() and dx.data_ptr() == place.data_ptr()
        assert bool((out[:, columns:] == 7).all() and (place[:, columns:] == 7).all()), "other columns stay"


def survives(module: ModuleType, kind: str) -> bool:
    """Whether the comparisons find nothing wrong with a module."""
    try:
        for flag in (False, True):
            check(module, KINDS[kind], 24, has_add=flag, has_out=True)  # room for what a fault may write
    except AssertionError:
        return False
    return True


@as_twin
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("has_add", [False, True])
@pytest.mark.parametrize("has_out", [False, True])
def test_the_twin_is_the_formula(kind: str, has_add: bool, has_out: bool) -> None:
    """Outputs and gradients, in every mixture of types, with a sum before, and into a part of other memory."""
    for columns in (1, 24):
        check(real, KINDS[kind], columns, has_add=has_add, has_out=has_out)


@as_twin
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("* scale * weight)", "* scale)"),
        ("+ eps)\n    if scales", ")\n    if scales"),
        ("scales.copy_(scale[:, 0])", "scales.copy_(1 / scale[:, 0])"),
        ("values = values + add", "values = values - add"),
        ("scaled - normed * (scaled * normed)", "scaled - normed * scaled * (scaled * normed)"),
        ("new if add is None else new + add", "new"),
        ("(upper * normed).sum(0)", "(upper * values).sum(0)"),
        ("scaled = values * scale, upper * weight", "scaled = values * scale, upper"),
    ],
)
def test_a_broken_twin_is_seen(tmp_path: Path, old: str, new: str) -> None:
    """The comparison finds each of these faults."""
    assert not survives(mutant_of(real, tmp_path, old=old, new=new), "float64")


@interpreted
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "mixed"])
@pytest.mark.parametrize("has_both", [False, True])
def test_interpreted_kernels(kind: str, has_both: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels agree with the formula, with a program for each row and with three for all."""
    check(real, KINDS[kind], 24, has_add=has_both, has_out=has_both)
    monkeypatch.setattr(real, "_PROGRAMS", 3)
    check(real, KINDS[kind], 16, has_add=has_both, has_out=not has_both)


@interpreted
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("tl.store(scales + row, scale)", "tl.store(scales + row, 1 / scale)"),
        ("normed.dtype.element_ty), mask=inside", "normed.dtype.element_ty), mask=column <= width"),
        ("tl.store(normed + row * stride", "tl.store(normed + row * width"),
        ("row = program + number * step", "row = program"),
        ("result = scale * (scaled - normed * mean)", "result = scale * scaled"),
        ("add + row * add_stride", "add + row * width"),
        ("tl.store(dx + row * stride", "tl.store(dx + row * width"),
        ("total += upper * normed", "total = upper * normed"),
    ],
)
def test_interpreted_mutant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    """A kernel with one of these faults does not agree."""
    monkeypatch.setattr(real, "_PROGRAMS", 3)
    broken = mutant_of(importlib.import_module(TRITON), tmp_path, old=old, new=new)
    monkeypatch.setitem(sys.modules, TRITON, broken)
    assert not survives(real, "float32")


@as_twin
@pytest.mark.parametrize("name", ["norm_forward", "norm_backward"])
def test_the_kernels_compile_for_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: what the compiler makes of them moves aligned rows in bfloat16 16 bytes at a time."""
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
    from tests.model.compiled import ptx_of

    constants = {"BLOCK": 2048, "HAS_ADD": True, "HAS_SCALES": True, "NEEDS_WEIGHT": True}
    numbers = {"width": "i32", "stride": "i32", "add_stride": "i32", "rows": "odd", "eps": "fp32"}
    numbers |= {"parts": "*fp32", "scales": "*fp32"}
    made = ptx_of(TRITON, name, constants=constants, types=numbers, warps=4)
    assert "ld.global.v4.b32" in made
    assert "st.global.v4.b32" in made
    assert "ld.global.b16" not in made
