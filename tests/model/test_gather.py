"""The gather kernels under Triton's interpreter and their twin, against sums in float64."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from attune.model.kernels import gather as real
from tests.model.flat import gathered, make_documents
from tests.model.interpreted import as_twin, interpreted
from tests.model.mutants import mutant_of

INDEX, ORDER, STARTS = gathered(make_documents([[0], [0, 1], [0, 2], [0, 1, 3], [0, 1, 4], [5]], [6, 3, 1, 4, 2, 5]))
ROUNDING = {torch.float64: 1e-15, torch.float32: 2e-7, torch.bfloat16: 2**-7}  # of one value, relative


def summed(grad: Tensor) -> Tensor:
    """Return the gradient of the gathered rows in float64, token by token."""
    return torch.stack([grad.double()[ORDER[start:stop]].sum(0) for start, stop in pairwise(STARTS.tolist())])


def check(module: ModuleType, dtype: torch.dtype, columns: int) -> None:
    """Assert that rows of a strided view are copied to the bit, and that their gradient is the sum, rounded once."""
    source = torch.Generator().manual_seed(0)
    x = torch.randn(21, 2 * columns, generator=source).to(dtype)[:, columns:]
    grad = torch.randn(len(INDEX), columns, generator=source).to(dtype)
    assert torch.equal(module.gather(x, INDEX), x[INDEX])
    ours = module.gather_backward(grad, INDEX, ORDER, STARTS)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), summed(grad), rtol=ROUNDING[dtype], atol=1e-6)
    assert torch.equal(ours, module.gather_backward(grad, INDEX, ORDER, STARTS))


def check_width(module: ModuleType) -> None:
    """Assert that many small gradients in bfloat16 add up to what they are; in bfloat16 they would stop at 256."""
    grad = torch.ones(320, 16, dtype=torch.bfloat16)
    starts = torch.tensor([0, 0, 320, 320], dtype=torch.int32)
    out = module.gather_backward(grad, torch.ones(320, dtype=torch.int64), torch.arange(320), starts)
    assert out.float().sum(1).tolist() == [0.0, 5120.0, 0.0]


def survives(module: ModuleType) -> bool:
    """Whether the comparisons find nothing wrong with a module."""
    try:
        check(module, torch.float32, 48)
        check(module, torch.float32, 1300)
        check_width(module)
    except AssertionError:
        return False
    return True


@as_twin
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("columns", [1, 16, 1300])
def test_the_twin_is_the_sum(dtype: torch.dtype, columns: int) -> None:
    """In every precision, with rows that nobody holds."""
    check(real, dtype, columns)


@as_twin
def test_the_twin_adds_many_small_gradients() -> None:
    """The sum of 320 rows of ones is 320 in bfloat16, too, though adding them there would stop at 256."""
    check_width(real)


@as_twin
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("index_add_(0, index, wide)", "index_add_(0, index.flip(0), wide)"),
        ("return total.to(grad.dtype)", "return total.half().to(grad.dtype)"),
    ],
)
def test_a_broken_twin_is_seen(tmp_path: Path, old: str, new: str) -> None:
    """The comparison finds each of these faults."""
    assert not survives(mutant_of(real, tmp_path, old=old, new=new))


@interpreted
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("columns", [1, 16, 1300])
def test_interpreted_kernels(dtype: torch.dtype, columns: int) -> None:
    """In every precision, with one block of columns or two, and rows that nobody holds."""
    check(real, dtype, columns)


@interpreted
def test_interpreted_kernels_add_many_small_gradients() -> None:
    """The sum of 320 rows of ones is 320 in bfloat16, too, though adding them there would stop at 256."""
    check_width(real)


@interpreted
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(held < last)[:, None] & (place", "(held <= last)[:, None] & (place"),
        ("start += ROWS", "start += 2 * ROWS"),
        ("start, last = tl.load(starts + row)", "start, last = tl.load(starts)"),
        ("WIDE=wide", "WIDE=_narrow()"),
        ("x + source[:, None] * x_stride", "x + source[:, None] * columns"),
        ("row = tl.program_id(0).to(tl.int64) * ROWS + tl", "row = tl.program_id(0).to(tl.int64) + tl"),
    ],
)
def test_interpreted_mutant(tmp_path: Path, old: str, new: str) -> None:
    """A kernel with one of these faults does not agree."""
    module = mutant_of(real, tmp_path, old=old, new=new)
    module._narrow = lambda: __import__("triton.language").language.bfloat16  # type: ignore[attr-defined]
    assert not survives(module)


@as_twin
@pytest.mark.parametrize("which", [0, 1], ids=["copy_rows", "add_rows"])
def test_the_kernels_compile_for_a_gpu(which: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: what the compiler makes of them reads aligned rows in bfloat16 16 bytes at a time."""
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = real._kernels()[which]
    names = kernel.arg_names
    rows, places = "*bf16", "*i64"
    types = {"x": rows, "out": rows, "grad": rows, "index": places, "order": places, "starts": "*i32"}
    constants = {"BLOCK": 1024, "ROWS": 4} | ({"WIDE": tl.float32} if which else {})
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in names if name not in (*constants, "count")}
    fixed = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=fixed, attrs=aligned)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
    assert "ld.global.v4.b32" in made
    assert "st.global.v4.b32" in made or which
