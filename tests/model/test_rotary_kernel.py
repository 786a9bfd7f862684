"""Rotary positions and head norms: twin and kernels against autograd of the formula in float64."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from attune.model.kernels import rotary as real
from tests.model.interpreted import as_twin, interpreted
from tests.model.mutants import mutant_of

TRITON = "attune.model.kernels.rotary_triton"
ROWS, EPS = 2, 1e-2
SHAPES = [(9, 1, 6), (2, 2, 8), (4, 2, 2)]  # query heads, key heads, width: more heads than one program takes at once
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def formula(
    packed: Tensor, angles: tuple[Tensor, Tensor], gains: tuple[Tensor, Tensor] | None, heads: tuple[int, int]
) -> Tensor:
    """Return packed rows with queries and keys normed, if there are gains, and rotated: x cos + (-x2, x1) sin."""
    cos, sin = angles
    parts = list(packed.unflatten(1, (-1, cos.shape[1])).split([*heads, heads[1]], dim=1))
    for number in range(2):
        part = parts[number]
        if gains is not None:
            part = gains[number] * part / torch.sqrt(part.square().mean(-1, keepdim=True) + EPS)
        first, second = part.chunk(2, dim=-1)
        parts[number] = part * cos[:, None] + torch.cat([-second, first], dim=-1) * sin[:, None]
    return torch.cat(parts, dim=1).flatten(1)


def close(found: Tensor, wanted: Tensor) -> None:
    """Assert that `found` is `wanted` [float64], rounded once to its type; the interpreter cuts where it rounds."""
    digits = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2**-7}
    rtol = digits[found.dtype]
    torch.testing.assert_close(found.double(), wanted, rtol=rtol, atol=min(rtol, 5e-6))


def check(module: ModuleType, dtype: torch.dtype, shape: tuple[int, int, int], *, has_norms: bool) -> None:
    """Compare rotated heads and the gradients of the packed rows and of the norms' weights with the formula's."""
    queries, keys, width = shape
    heads = module.Heads(queries, keys, width)
    assert heads.packed == (queries + 2 * keys) * width
    source = torch.Generator().manual_seed(0)

    def drawn(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=source).to(dtype)

    packed, cos, sin = drawn(ROWS, heads.packed), drawn(ROWS, width), drawn(ROWS, width)
    packed[1] *= 1e-2  # where eps counts
    gains = (drawn(width), drawn(width)) if has_norms else None
    norms = module.HeadNorms(*gains, EPS) if gains else None
    grad = drawn(ROWS, heads.packed + 3)[:, 3:].unflatten(1, (-1, width)).split([queries, keys, keys], dim=1)
    leaves = [part.double().requires_grad_() for part in (packed, *(gains or ()))]
    angles = (cos.double(), sin.double())
    wanted = formula(leaves[0], angles, (leaves[1], leaves[2]) if gains else None, (queries, keys))
    wanted.backward(torch.cat(grad, dim=1).flatten(1).double())

    given = packed.clone()
    found = module.rotate(given, cos, sin, heads=heads, norms=norms)
    assert [part.shape for part in found] == [(ROWS, number, width) for number in (queries, keys, keys)]
    close(torch.cat(found, dim=1).flatten(1), wanted.detach())
    if has_norms:
        assert torch.equal(given, packed), "the backward pass needs what came in"
    else:
        assert found[0].data_ptr() == given.data_ptr(), "rotated in place"

    out = torch.full((ROWS, heads.packed + 5), 7.0, dtype=dtype)
    of_gains = module.rotate_backward(grad, cos, sin, heads=heads, norms=norms, packed=packed, out=out)
    assert leaves[0].grad is not None
    close(out[:, : heads.packed], leaves[0].grad)
    assert bool((out[:, heads.packed :] == 7).all()), "other columns stay"
    for mine, leaf in zip(of_gains, leaves[1:] or (None, None), strict=True):
        assert (mine is None) == (leaf is None)
        if mine is not None and leaf is not None and leaf.grad is not None:
            close(mine, leaf.grad)


def survives(module: ModuleType, dtype: torch.dtype) -> bool:
    """Whether the comparisons find nothing wrong with a module."""
    try:
        for has_norms in (False, True):
            check(module, dtype, SHAPES[0], has_norms=has_norms)
    except AssertionError:
        return False
    return True


@as_twin
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("has_norms", [False, True])
def test_the_twin_is_the_formula(dtype: torch.dtype, shape: tuple[int, int, int], has_norms: bool) -> None:
    """Outputs and gradients, with norms and without, for one key head and for several."""
    check(real, dtype, shape, has_norms=has_norms)


@as_twin
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("torch.cat([-x[..., half:], x[..., :half]]", "torch.cat([x[..., half:], -x[..., :half]]"),
        ("torch.cat([turned[..., half:], -turned[..., :half]]", "torch.cat([-turned[..., half:], turned[..., :half]]"),
        ("turned = upper * sin[:, None]\n", "turned = upper * sin.flip(1)[:, None]\n"),
        ("view[:, rotated:] = d_value", "view[:, rotated:] = d_key"),
        ("expand(heads.queries, -1), norms.key.to(dtype)", "expand(heads.queries, -1), norms.query.to(dtype)"),
        ("(scaled - normed * (scaled", "(scaled - values * (scaled"),
        ("sums = (back * normed)", "sums = (scaled * normed)"),
        ("sums[: heads.queries].sum(0)", "sums[0]"),
    ],
)
def test_a_broken_twin_is_seen(tmp_path: Path, old: str, new: str) -> None:
    """The comparison finds each of these faults."""
    assert not survives(mutant_of(real, tmp_path, old=old, new=new), torch.float64)


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("has_norms", [False, True])
def test_interpreted_kernels(dtype: torch.dtype, has_norms: bool) -> None:
    """The kernels agree with the formula, with more heads than one program takes and with few."""
    for shape in SHAPES[:2]:
        check(real, dtype, shape, has_norms=has_norms)


@interpreted
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(first * cos1 - second * sin1)", "(first * cos1 + second * sin1)"),
        ("back2 = upper2 * cos2 - upper1 * sin1", "back2 = upper2 * cos2 + upper1 * sin1"),
        ("tl.program_id(1) * HEADS", "tl.program_id(1)"),
        ("there & (head >= queries)", "there & (head > queries)"),
        ("target = out + row * out_stride + head", "target = out + row * out_stride + 0 * head"),
        ("base = d_query + row * query_row", "base = d_query + row * width"),
        ("gain = query if part == 0 else key", "gain = query"),
        ("before = 0 if part == 0 else queries", "before = 0"),
        ("total2 += tl.sum(back2", "total2 = tl.sum(back2"),
        ("back1 = scale * (back1 - first * mean)", "back1 = scale * back1"),
        ("for start in range(0, keys, HEADS):", "for start in range(0, 0, HEADS):"),
        ("d_value + row * value_row", "d_value + row * value_head"),
    ],
)
def test_interpreted_mutant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    """A kernel with one of these faults does not agree."""
    broken = mutant_of(importlib.import_module(TRITON), tmp_path, old=old, new=new)
    monkeypatch.setitem(sys.modules, TRITON, broken)
    assert not survives(real, torch.float32)


@as_twin
@pytest.mark.parametrize("name", ["rotate_forward", "rotate_backward"])
@pytest.mark.parametrize("has_norms", [False, True])
@pytest.mark.parametrize("keys", ["i32", "one"])
def test_the_kernels_compile_for_a_gpu(name: str, has_norms: bool, keys: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU, for one key head too, which is made a constant: rows in bfloat16 are moved 16 bytes at a time."""
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
    from tests.model.compiled import ptx_of

    constants: dict[str, object] = {"D": 128, "HALF": 64, "HEADS": 8, "NORM": has_norms}
    strides = ("in_stride", "out_stride", "query_row", "query_head", "key_row", "key_head", "value_row", "value_head")
    types = dict.fromkeys((*strides, "stride"), "i32") | {"queries": "odd", "rotated": "odd", "eps": "fp32"}
    if keys == "one":
        constants["keys"] = 1
    else:
        types["keys"] = "odd"
    made = ptx_of(TRITON, name, constants=constants, types=types | {"parts": "*fp32"}, warps=2)
    assert "ld.global.v4.b32" in made
    assert "st.global.v4.b32" in made
