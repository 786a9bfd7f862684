"""SwiGLU: the twin against autograd of the formula in float64, the kernels against the same."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from attune.model.kernels import swiglu as real
from tests.model.interpreted import as_twin, interpreted
from tests.model.mutants import mutant_of

TRITON = "attune.model.kernels.swiglu_triton"
ROWS = 3
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def close(found: Tensor, wanted: Tensor) -> None:
    """Assert that `found` is `wanted` [float64], rounded once to its type; the interpreter cuts where it rounds."""
    digits = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2**-7}
    rtol = digits[found.dtype]
    torch.testing.assert_close(found.double(), wanted, rtol=rtol, atol=min(rtol, 2e-6))


def check(module: ModuleType, dtype: torch.dtype, width: int, *, has_out: bool) -> None:
    """Compare the product and the gradients of gate and up with the formula's."""
    source = torch.Generator().manual_seed(0)
    both = (4 * torch.randn(ROWS, 2 * width, generator=source)).to(dtype)
    both[0, 0], both[1, 0] = 60.0, -60.0  # where the gate is open or shut
    grad = torch.randn(ROWS, width, generator=source).to(dtype)
    leaf = both.double().requires_grad_()
    gate, up = leaf.chunk(2, dim=1)
    wanted = gate / (1 + torch.exp(-gate)) * up
    wanted.backward(grad.double())

    memory = torch.full((ROWS, width + 5), 7.0, dtype=dtype)
    product = module.swiglu(both, out=memory if has_out else None)
    assert product.shape == (ROWS, width)
    close(product, wanted.detach())
    assert not has_out or product.data_ptr() == memory.data_ptr()
    out = torch.full((ROWS, 2 * width + (5 if has_out else 0)), 7.0, dtype=dtype)
    again = module.swiglu_backward(grad, both, out=out, needs_product=True)
    close(again, wanted.detach())
    assert leaf.grad is not None
    close(out[:, : 2 * width], leaf.grad)
    other = torch.empty_like(out)
    assert module.swiglu_backward(grad, both, out=other, needs_product=False) is None
    assert torch.equal(other[:, : 2 * width], out[:, : 2 * width])
    assert bool((memory[:, width:] == 7).all() and (out[:, 2 * width :] == 7).all()), "other columns stay"


def survives(module: ModuleType, dtype: torch.dtype) -> bool:
    """Whether the comparison finds nothing wrong with a module."""
    try:
        check(module, dtype, 24, has_out=True)
    except AssertionError:
        return False
    return True


@as_twin
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("has_out", [False, True])
def test_the_twin_is_the_formula(dtype: torch.dtype, has_out: bool) -> None:
    """The product and both gradients, into memory of their own and into a part of other memory."""
    for width in (1, 24):
        check(real, dtype, width, has_out=has_out)


@as_twin
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("F.silu(wide[:, :width])", "F.gelu(wide[:, :width])"),
        ("(1 + gate * (1 - share))", "(1 + gate * share)"),
        ("= upper * gate * share", "= upper * share"),
        ("product.copy_(gate * share * up)", "product.copy_(gate * up)"),
    ],
)
def test_a_broken_twin_is_seen(tmp_path: Path, old: str, new: str) -> None:
    """The comparison finds each of these faults."""
    assert not survives(mutant_of(real, tmp_path, old=old, new=new), torch.float64)


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("has_out", [False, True])
def test_interpreted_kernels(dtype: torch.dtype, has_out: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels agree with the formula, in one block and in two."""
    check(real, dtype, 24, has_out=has_out)
    monkeypatch.setattr(real, "_BLOCK", 16)
    check(real, dtype, 24, has_out=has_out)


@interpreted
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("up = tl.load(both + row * 2 * width + width + column", "up = tl.load(both + row * 2 * width + column"),
        ("tl.store(product + row * stride", "tl.store(product + row * width"),
        ("(1.0 + gate * (1.0 - share))", "(1.0 + gate * share)"),
        ("target = d_both + row * stride", "target = d_both + row * 2 * width"),
        ("upper = tl.load(grad + row * width", "upper = tl.load(grad + 0 * width"),
        ("again = gate * share * up", "again = gate * up"),
    ],
)
def test_interpreted_mutant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    """A kernel with one of these faults does not agree."""
    broken = mutant_of(importlib.import_module(TRITON), tmp_path, old=old, new=new)
    monkeypatch.setitem(sys.modules, TRITON, broken)
    assert not survives(real, torch.float32)


@as_twin
@pytest.mark.parametrize("name", ["swiglu_forward", "swiglu_backward"])
def test_the_kernels_compile_for_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: what the compiler makes of them moves aligned rows in bfloat16 16 bytes at a time."""
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
    from tests.model.compiled import ptx_of

    constants = {"BLOCK": 1024, "NEEDS_PRODUCT": True}
    made = ptx_of(TRITON, name, constants=constants, types={"width": "i32", "stride": "i32"}, warps=4)
    assert "ld.global.v4.b32" in made
    assert "st.global.v4.b32" in made
    assert "ld.global.b16" not in made
