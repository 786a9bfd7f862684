"""8-bit floats: scales keep every row in range, products are those of the rounded numbers, layers learn with them."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from attune.config import AdapterConfig
from attune.errors import ConfigError, ModelError
from attune.model.adapter import attach_adapter, trainable_weights
from attune.model.fp8 import Fp8Linear, Fp8Store, Fp8Weight, TrainedFp8Store, check_fp8, gradient_type, hold_in_fp8
from attune.model.kernels import fp8
from attune.model.loss import loss_sums
from attune.model.nf4 import quantise_linears
from attune.model.stores import HeldLinear, fuse, store_of
from tests.model.interpreted import interpreted
from tests.tiny import flat_batch, make_model, make_rows

TYPES = [torch.float8_e4m3fn, torch.float8_e5m2]


def spread_rows(dtype: torch.dtype = torch.float32, columns: int = 48) -> torch.Tensor:
    """Return rows of many sizes, one of zeros, one at the very end of the range."""
    x = (
        torch.randn(6, columns, generator=torch.Generator().manual_seed(0))
        * torch.tensor([[1, 1e-20, 0, 1e20, 3, 0.1]]).T
    )
    x[4, 0] = 448.0
    return x.to(dtype)


def test_scales_are_the_least_powers_of_two() -> None:
    """The least that is enough; never zero; NaN for what no scale holds."""
    x = torch.tensor([1.0, 1.0001, 0.9, 0.0, 3e-45, 448 * 2.0**-3, math.inf, math.nan])
    want = [1.0, 2.0, 1.0, 2.0**-126, 2.0**-126, 64.0, math.nan, math.nan]
    torch.testing.assert_close(fp8.power_above(x), torch.tensor(want), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", TYPES)
def test_rows_of_any_size_keep_their_digits(dtype: torch.dtype) -> None:
    """With a scale for each row, all rows have the error of the type; with one for all, small rows are lost."""
    x = spread_rows()
    numbers, scales = fp8.quantise(x, dtype)
    assert scales.shape == (6, 1)
    largest = numbers.float().abs().amax(1)
    assert ((largest > fp8.LARGEST[dtype] / 2 - 1) | (x.abs().amax(1) == 0)).all()
    step = 2.0**-4 if dtype == torch.float8_e4m3fn else 2.0**-3  # half of the last place
    kept = x.abs() > x.abs().amax(1, keepdim=True) / 1000  # smaller ones are subnormal
    error = (numbers.float() * scales - x).abs()
    assert (error[kept] <= step * x.abs()[kept]).all()
    numbers, scales = fp8.quantise(x, dtype, by_row=False)
    assert scales.shape == (1, 1)
    assert not numbers.float()[5].any()


@pytest.mark.parametrize("by_row", [True, False])
def test_what_is_not_finite_is_not_hidden(by_row: bool) -> None:
    """An infinity or a NaN in a row makes the row NaN, in place of the largest number."""
    for bad in (math.inf, -math.inf, math.nan):
        x = spread_rows()
        x[1, 3] = bad
        numbers, scales = fp8.quantise(x, by_row=by_row)
        assert (numbers.float() * scales)[1, 3].isnan()


def test_no_rows_at_all() -> None:
    """An empty batch stays empty."""
    numbers, scales = fp8.quantise(torch.zeros(0, 16))
    assert numbers.shape == (0, 16)
    assert scales.shape == (0, 1)


@interpreted
@pytest.mark.parametrize("eight", TYPES)
@pytest.mark.parametrize("by_row", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_interpreted_kernel(eight: torch.dtype, by_row: bool, dtype: torch.dtype) -> None:
    """Scales and numbers agree to the bit, for rows that lie apart too."""
    for x in (spread_rows(dtype), spread_rows(dtype, 300)[:, 20:257], spread_rows(dtype, 16)):
        numbers, scales = fp8.quantise(x, eight, by_row=by_row)
        want, want_scales = fp8.quantise_twin(x, eight, None if by_row else scales)
        assert torch.equal(scales, want_scales)
        assert torch.equal(numbers.view(torch.uint8), want.view(torch.uint8))


@interpreted
def test_interpreted_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that believes in another largest number does not agree with the twin."""
    x = spread_rows()
    want = fp8.quantise_twin(x, TYPES[0])[1]
    monkeypatch.setitem(fp8.LARGEST, TYPES[0], 240.0)
    assert not torch.equal(fp8.quantise(x, TYPES[0])[1], want)


def dequantised(x: torch.Tensor, dtype: torch.dtype, *, by_row: bool) -> torch.Tensor:
    """Return what is left of `x`, in float64."""
    numbers, scales = fp8.quantise(x, dtype, by_row=by_row)
    return numbers.double() * scales


@pytest.mark.parametrize("by_row", [True, False])
@pytest.mark.parametrize("is_frozen", [True, False])
def test_products_are_those_of_the_rounded_numbers(by_row: bool, is_frozen: bool) -> None:
    """Forward and back multiply what quantising leaves of both sides; a trained weight's gradient is not in 8 bits."""
    torch.manual_seed(0)
    linear = nn.Linear(32, 48)
    plain = copy.deepcopy(linear)
    model = nn.Sequential(linear)
    hold_in_fp8(model, is_frozen=is_frozen, by_row=by_row, simulate=True)
    x = torch.randn(5, 32, requires_grad=True)
    y = model(x)
    dy = torch.randn_like(y)
    y.backward(dy)
    weight = plain.weight.detach()
    forward = dequantised(x.detach(), TYPES[0], by_row=by_row) @ dequantised(weight, TYPES[0], by_row=by_row).T
    torch.testing.assert_close(y.detach().double(), forward + plain.bias.detach(), rtol=1e-5, atol=1e-5)
    assert x.grad is not None
    back = dequantised(dy, gradient_type(by_row), by_row=by_row) @ dequantised(weight.T, TYPES[0], by_row=by_row).T
    torch.testing.assert_close(x.grad.double(), back, rtol=1e-5, atol=1e-5)
    exact = dy @ weight
    assert 0.005 < float((x.grad - exact).norm() / exact.norm()) < 0.08  # the comparison is not blind to no rounding
    if is_frozen:
        assert isinstance(model[0], HeldLinear)
        assert not any(parameter.requires_grad for parameter in model.parameters())
    else:
        assert isinstance(model[0], Fp8Linear)
        torch.testing.assert_close(model[0].weight.grad, dy.T @ x.detach())


@pytest.mark.parametrize("by_row", [True, False])
def test_fused_matrices_share_one_memory(by_row: bool) -> None:
    """Joined rows multiply as before (their scales are powers of two), and the layers are views of them."""
    torch.manual_seed(0)
    weights = [size * torch.randn(16, 32) for size in (1.0, 0.01, 5.0)]
    parts = [Fp8Weight(weight, by_row=by_row) for weight in weights]
    layers = [HeldLinear(part, None) for part in parts]
    x, dy = torch.randn(7, 32), torch.randn(7, 48)
    before = torch.cat([layer(x) for layer in layers], dim=1)
    store = fuse([store_of(layer) for layer in layers])
    torch.testing.assert_close(store.times(x), before, rtol=1e-5, atol=1e-6 if by_row else 0.02)
    torch.testing.assert_close(torch.cat([layer(x) for layer in layers], dim=1), store.times(x))
    want = dequantised(dy, gradient_type(by_row), by_row=by_row) @ torch.cat(
        [dequantised(weight.T, TYPES[0], by_row=by_row).T for weight in weights]
    )
    torch.testing.assert_close(store.back(dy).double(), want, rtol=0.01, atol=0.02)
    assert isinstance(store, Fp8Store)
    assert parts[1].by_out.data_ptr() == store.weight.by_out[16:].data_ptr()
    assert parts[1].by_in.data_ptr() == store.weight.by_in[:, 16:].data_ptr()


def test_fused_trained_layers_follow_their_parameters() -> None:
    """The fused store of trained layers multiplies by the parameters of the moment."""
    torch.manual_seed(0)
    layers = [nn.Linear(32, 16, bias=False), nn.Linear(32, 16, bias=False)]
    model = nn.Sequential(*layers)
    hold_in_fp8(model, is_frozen=False, simulate=True)
    store = fuse([store_of(layer) for layer in model])
    assert isinstance(store, TrainedFp8Store)
    x = torch.randn(3, 32)
    before = store.times(x)
    with torch.no_grad():
        layers[1].weight.mul_(2)
    assert torch.equal(store.times(x)[:, 16:], 2 * before[:, 16:])
    assert torch.equal(store.times(x)[:, :16], before[:, :16])


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2"])
def test_a_model_under_lora_learns_the_same_to_the_rounding(name: str) -> None:
    """The head and odd sizes stay as they are; loss and LoRA gradients are near those of the full weights."""
    losses, grads = [], []
    for is_held in (False, True):
        model = make_model(name, dtype=torch.float32)
        if is_held:
            done = hold_in_fp8(model, is_frozen=True, simulate=True)
            assert done.left_out == ("lm_head",)
            assert done.layers == 14
        model = attach_adapter(model, AdapterConfig(kind="lora", rank=4), seed=0, base="b")
        for key, weight in trainable_weights(model).items():
            assert ".lora_" in key
            weight.data.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
        sums = loss_sums(model, flat_batch(make_rows([9, 14])))
        sums.loss.backward()
        losses.append(float(sums.loss.detach()))
        grads.append(torch.cat([w.grad.flatten() for w in trainable_weights(model).values() if w.grad is not None]))
    assert math.isclose(losses[0], losses[1], rel_tol=0.02)
    assert losses[0] != losses[1]
    assert torch.nn.functional.cosine_similarity(grads[0], grads[1], dim=0) > 0.97


def test_a_device_without_8_bit_units_is_refused() -> None:
    """On a processor, the wish is an error; a model without a fitting layer is one too."""
    with pytest.raises(ModelError, match=r"train\.fp8: cpu has no 8-bit matrix units"):
        hold_in_fp8(make_model(), is_frozen=True)
    model = make_model()
    quantise_linears(model)
    with pytest.raises(ConfigError, match=r"adapter\.kind lora in place of qlora"):
        hold_in_fp8(model, is_frozen=True, simulate=True)
    with pytest.raises(ModelError, match="has no 8-bit matrix units"):
        check_fp8(torch.device("cpu"))
    with pytest.raises(ModelError, match="multiples of 16"):
        hold_in_fp8(nn.Sequential(nn.Linear(10, 10)), is_frozen=True, simulate=True)
    with pytest.raises(ModelError, match="NaN or infinite"):
        Fp8Weight(torch.full((16, 16), math.inf))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("by_row", [True, False])
@pytest.mark.parametrize("tokens", [1, 13, 64])
def test_the_device_computes_what_the_twin_does(by_row: bool, tokens: int) -> None:
    """On CUDA, numbers and scales agree to the bit with the twin's, and products within the matrix units' rounding."""
    torch.manual_seed(0)
    weights = [torch.randn(64, 256, dtype=torch.bfloat16), torch.randn(32, 256, dtype=torch.bfloat16)]
    x, dy = torch.randn(tokens, 256, dtype=torch.bfloat16), torch.randn(tokens, 96, dtype=torch.bfloat16)
    for eight in TYPES:
        numbers, scales = fp8.quantise(x.cuda(), eight, by_row=by_row)
        want, want_scales = fp8.quantise(x, eight, by_row=by_row)
        assert torch.equal(scales.cpu(), want_scales)
        assert torch.equal(numbers.cpu().view(torch.uint8), want.view(torch.uint8))
    results = []
    for device in ("cpu", "cuda"):
        parts = [Fp8Weight(weight.to(device), by_row=by_row).store() for weight in weights]
        alone = torch.cat([part.times(x.to(device)) for part in parts], dim=1)
        store = fuse(parts)
        upper = dy.to(device)
        results.append((alone, store.times(x.to(device)), store.back(upper), parts[1].back(upper[:, 64:])))
    for got, want in zip(results[1], results[0], strict=True):
        assert float((got.cpu().double() - want.double()).norm() / want.double().norm()) < 0.01
