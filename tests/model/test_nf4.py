"""NF4: packed weights stand for the nearest levels, layers of them compute with just those, and only adapters train."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from attune.errors import ModelError
from attune.model.kernels import nf4
from attune.model.loss import loss_sums
from attune.model.nf4 import Nf4Store, Nf4Weight, Scratch, quantise_linears
from attune.model.stores import HeldLinear, fuse, store_of
from tests.model.interpreted import interpreted
from tests.tiny import flat_batch, make_model, make_rows


def normal(count: int, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Return normal numbers of the size that weights have."""
    return (0.02 * torch.randn(count, generator=torch.Generator().manual_seed(seed))).to(dtype)


def restored(flat: torch.Tensor) -> torch.Tensor:
    """Return what is left of weights after packing and unpacking them by the twins."""
    codes, grid = nf4.find_scales(flat)
    out = torch.empty_like(flat)
    nf4.unpack_twin(nf4.pack_twin(flat, nf4.scales_of(codes, grid)), codes, grid, out)
    return out


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """Return the root mean square of the difference, relative to that of `want`."""
    return float((got.double() - want.double()).norm() / want.double().norm())


def test_the_levels_are_the_published_ones() -> None:
    """They are quantiles of the normal distribution, 7 below zero and 8 above it: the paper's section 3."""
    quantile = torch.special.ndtri
    above = quantile(torch.linspace(0.9677083, 0.5, 9, dtype=torch.float64)[:-1])
    below = -quantile(torch.linspace(0.9677083, 0.5, 8, dtype=torch.float64)[:-1])
    points = torch.cat([below, torch.zeros(1, dtype=torch.float64), above]).sort().values
    torch.testing.assert_close(torch.tensor(nf4.LEVELS, dtype=torch.float64), points / points.max(), rtol=0, atol=1e-6)


def test_the_error_of_normal_weights_is_that_of_the_theory() -> None:
    """Blocks of 64 normal numbers scaled by their largest: the error of the nearest level, computed by drawing them."""
    flat = normal(64 * 256 * 8)
    blocks = flat.double().view(-1, 64)
    scales = blocks.abs().amax(1, keepdim=True)
    points = torch.tensor(nf4.LEVELS, dtype=torch.float64)
    nearest = points[((blocks / scales)[..., None] - points).abs().argmin(-1)] * scales
    theory = relative_error(nearest.flatten(), flat)
    assert 0.09 < theory < 0.095
    assert math.isclose(relative_error(restored(flat), flat), theory, rel_tol=0.01)  # scales of 8 bits cost little


def test_a_wrong_level_or_scale_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison with the theory is not blind: one level off, or scales of 3 bits, and the error is another."""
    flat = normal(64 * 256)
    right = relative_error(restored(flat), flat)
    with monkeypatch.context() as patch:
        wrong = torch.tensor(nf4.LEVELS)
        wrong[5] = -0.25
        patch.setattr(nf4, "levels", lambda _: wrong)
        assert relative_error(restored(flat), flat) > 1.05 * right
    with monkeypatch.context() as patch:
        patch.setattr(nf4, "scales_of", lambda codes, grid: grid[0, 0] + (codes // 64 * 64).float() * grid[0, 1])
        assert relative_error(restored(flat), flat) > 1.05 * right


@pytest.mark.parametrize("count", [1, 10, 64, 100, 64 * 256 + 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_any_number_of_weights_comes_back(count: int, dtype: torch.dtype) -> None:
    """Blocks and bytes that are not full are filled up and cut again; the largest of a block is nearly exact."""
    flat = normal(count, dtype=dtype)
    back = restored(flat)
    assert back.shape == flat.shape
    assert back.dtype == dtype
    assert relative_error(back, flat) < 0.13
    largest = flat.abs().argmax()
    torch.testing.assert_close(back[largest], flat[largest], rtol=0.01, atol=0)


def test_zeros_stay_zeros() -> None:
    """Blocks of zeros beside others and a matrix of zeros come back as zeros."""
    flat = torch.cat([torch.zeros(64), normal(64), torch.zeros(10)])
    assert not restored(flat)[:64].any()
    assert not restored(flat)[128:].any()
    assert not restored(torch.zeros(200)).any()


@interpreted
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [10, 64 * 31, 64 * 300 + 6])
def test_interpreted_kernels(count: int, dtype: torch.dtype) -> None:
    """Packing agrees to the bit; unpacking too in float32, and to the last place in bfloat16."""
    flat = normal(count, dtype=dtype)
    codes, grid = nf4.find_scales(flat)
    packed = nf4.pack(flat, codes, grid)
    assert torch.equal(packed, nf4.pack_twin(flat, nf4.scales_of(codes, grid)))
    for kind, tolerance in ((torch.float32, 0.0), (torch.bfloat16, 2.0**-7)):  # the interpreter cuts where it rounds
        got, want = torch.empty(count, dtype=kind), torch.empty(count, dtype=kind)
        nf4.unpack(packed, codes, grid, got)
        nf4.unpack_twin(packed, codes, grid, want)
        torch.testing.assert_close(got, want, rtol=tolerance, atol=0)


@interpreted
def test_interpreted_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that is given another level or border does not agree with the twin."""
    flat = normal(64 * 40)
    codes, grid = nf4.find_scales(flat)
    right = nf4.pack_twin(flat, nf4.scales_of(codes, grid))
    with monkeypatch.context() as patch:
        patch.setattr(nf4, "borders", lambda _: torch.tensor(nf4.LEVELS[1:]))
        assert not torch.equal(nf4.pack(flat, codes, grid), right)
    want, got = torch.empty(64 * 40), torch.empty(64 * 40)
    nf4.unpack_twin(right, codes, grid, want)
    monkeypatch.setattr(nf4, "levels", lambda _: torch.tensor(nf4.LEVELS).flip(0))
    nf4.unpack(right, codes, grid, got)
    assert not torch.equal(got, want)


def held(rows: int, columns: int, *, seed: int = 0, scratch: Scratch | None = None) -> HeldLinear:
    """Return a float64 layer of 4-bit weights."""
    weight = normal(rows * columns, dtype=torch.float64, seed=seed).view(rows, columns)
    return HeldLinear(Nf4Weight(weight, scratch or Scratch()), None)


def test_products_are_those_of_the_unpacked_matrix() -> None:
    """Times, back and autograd's gradient of x agree with the dense matrix, and no other gradient is found."""
    layer = held(24, 40)
    dense = store_of(layer).dense().clone()
    x = torch.randn(2, 3, 40, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    torch.testing.assert_close(y, x @ dense.T)
    dy = torch.randn_like(y)
    y.backward(dy)
    torch.testing.assert_close(x.grad, dy @ dense)
    assert torch.autograd.gradcheck(layer, (torch.randn(3, 40, dtype=torch.float64, requires_grad=True),))
    torch.testing.assert_close(store_of(layer).outer(dy[0], x.detach()[0]), dy[0].T @ x.detach()[0])


def test_fused_matrices_are_unpacked_side_by_side() -> None:
    """A store of three layers holds nothing twice and multiplies as their rows together do."""
    scratch = Scratch()
    layers = [held(8, 16, seed=seed, scratch=scratch) for seed in range(3)]
    dense = torch.cat([store_of(layer).dense().clone() for layer in layers])
    store = fuse([store_of(layer) for layer in layers])
    assert isinstance(store, Nf4Store)
    assert (store.out_features, store.in_features) == (24, 16)
    assert torch.equal(store.dense(), dense)
    x = torch.randn(5, 16, dtype=torch.float64)
    torch.testing.assert_close(store.times(x), x @ dense.T)


def test_the_weight_cannot_be_read_or_changed_by_mistake() -> None:
    """It tells shape, type and device; its numbers are NaN, and PEFT's merge, which would be lost, fails."""
    layer = held(8, 16)
    assert layer.weight.shape == (8, 16)
    assert layer.weight.dtype == torch.float64
    assert layer.weight.isnan().all()
    with pytest.raises(RuntimeError, match="single memory location"):
        layer.weight.data += torch.ones(8, 16)
    assert not list(layer.parameters())


def test_numbers_that_are_not_finite_are_refused() -> None:
    """A NaN has no scale: the load fails rather than the loss."""
    with pytest.raises(ModelError, match="NaN or infinite"):
        Nf4Weight(torch.tensor([[1.0, math.nan]]), Scratch())


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "gpt2"])
def test_a_model_computes_with_the_packed_weights(name: str) -> None:
    """All linear layers but the head are held, biases kept; loss and gradients are those of the unpacked weights."""
    model = make_model(name)
    plain = copy.deepcopy(model)
    done = quantise_linears(model)
    assert done.left_out == ("lm_head",)
    assert done.layers == (8 if name == "gpt2" else 14)
    for part_name, part in model.named_modules():
        if isinstance(part, HeldLinear):
            dense = store_of(part).dense()
            weight = plain.get_submodule(part_name).weight
            weight.data = (dense.T if name == "gpt2" else dense).clone()
    batch = flat_batch(make_rows([7, 12, 5]))
    sums = [loss_sums(one, batch) for one in (model, plain)]
    torch.testing.assert_close(sums[0].loss, sums[1].loss)
    for one in sums:
        one.loss.backward()
    grads = [one.get_input_embeddings().weight.grad for one in (model, plain)]
    torch.testing.assert_close(grads[0], grads[1])


def test_a_copied_model_has_memory_of_its_own() -> None:
    """A deep copy computes the same, and its layers share one scratch again."""
    model = make_model()
    quantise_linears(model)
    other = copy.deepcopy(model)
    batch = flat_batch(make_rows([6]))
    assert torch.equal(loss_sums(model, batch).loss, loss_sums(other, batch).loss)
    scratches = {id(part.scratch) for part in other.modules() if isinstance(part, Nf4Weight)}
    assert len(scratches) == 1


def test_nothing_to_hold_is_an_error() -> None:
    """A model without linear layers is not silently left as it is."""
    with pytest.raises(ModelError, match="no linear layers to hold in 4 bits"):
        quantise_linears(nn.Sequential(nn.Embedding(2, 2)))


def differing(found: torch.Tensor, wanted: torch.Tensor, allowed: float = 1e-4) -> str:
    """Say what differs between codes, if it is more than a share or any by more than one level; else nothing."""
    steps = (found.cpu().int() - wanted.cpu().int()).abs()
    share, largest = float((steps > 0).double().mean()), int(steps.max())
    if share <= allowed and largest <= 1:
        return ""
    return f"{int((steps > 0).sum())} of {steps.numel()} codes differ, one of them by {largest} levels"


def nibbles(packed: torch.Tensor) -> torch.Tensor:
    """Return the 4-bit codes of packed weights, two from each byte."""
    return torch.stack([packed & 15, packed >> 4]).flatten()


def test_codes_that_differ_are_told() -> None:
    """One in 10,000 may, by one level; one more, or one by two levels, is too much."""
    codes = torch.arange(20_000) % 200
    off = codes.clone()
    off[:2] += 1
    assert differing(off, codes) == ""
    off[2] += 1
    assert differing(off, codes) == "3 of 20000 codes differ, one of them by 1 levels"
    assert (
        differing(codes + 2 * (torch.arange(20_000) == 7), codes) == "1 of 20000 codes differ, one of them by 2 levels"
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [10, 64 * 1000 + 6, 4096 * 1024])
def test_the_device_packs_and_unpacks_as_the_twin_does(count: int, dtype: torch.dtype) -> None:
    """On CUDA, codes of scales and weights agree but for ties that are rounded otherwise, unpacked ones to rounding."""
    flat = normal(count, dtype=dtype)
    codes, grid = nf4.find_scales(flat)
    packed = nf4.pack(flat, codes, grid)
    there = nf4.find_scales(flat.cuda())
    torch.testing.assert_close(there[1].cpu(), grid, rtol=1e-6, atol=0)
    # the largest of 64 numbers with 8 significant bits often lies half-way between two of 256 levels
    assert not (found := differing(there[0], codes, 1e-2)), f"scales: {found}"
    again = nf4.pack(flat.cuda(), codes.cuda(), grid.cuda())
    assert not (found := differing(nibbles(again), nibbles(packed))), f"weights: {found}"
    got, want = torch.empty(count, dtype=dtype, device="cuda"), torch.empty(count, dtype=dtype)
    nf4.unpack(packed.cuda(), codes.cuda(), grid.cuda(), got)
    nf4.unpack_twin(packed, codes, grid, want)
    torch.testing.assert_close(got.cpu(), want, rtol=2.0**-7 if dtype == torch.bfloat16 else 1e-6, atol=0)
