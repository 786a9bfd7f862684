"""Optimizers: exact in 16 bits, close in 8, equal to torch's where torch has one, and resumed in the same bits."""

from __future__ import annotations

import math

import pytest
import safetensors.torch
import torch

from attune.config import TrainConfig
from attune.model.kernels import adamw
from attune.model.kernels.adamw import widen
from attune.model.loss import loss_sums
from attune.train.optim import (
    build_optimizer,
    clip_and_step,
    load_optimizer,
    optimizer_tensors,
    set_learning_rate,
    state_bytes,
)
from attune.train.optimizers.guarded import Guarded
from attune.train.optimizers.muon import MOMENTUM, orthogonalise
from attune.train.optimizers.weight import gradient_norm
from tests.tiny import flat_batch, make_model, make_rows

EVERY = [
    TrainConfig(optimizer=name, rounding=rounding, weight_decay=0.1)
    for name in ("adamw", "adamw_8bit", "muon")
    for rounding in ("master", "stochastic")
]


def set_gradients(model: torch.nn.Module, number: int, *, size: float = 1.0) -> None:
    """Give every trainable weight a random gradient that depends on `number` alone; drawn in bfloat16, so any fits."""
    source = torch.Generator().manual_seed(number)
    for parameter in model.parameters():
        drawn = torch.randn(parameter.shape, generator=source).bfloat16() * size
        parameter.grad = drawn.to(parameter.dtype) if parameter.requires_grad else None


def run(model: torch.nn.Module, optimizer: torch.optim.Optimizer, numbers: range, *, clip: float = 1e9) -> list[float]:
    """Update with the gradients of those numbers; return the norms."""
    norms = []
    for number in numbers:
        set_gradients(model, number)
        set_learning_rate(optimizer, 1e-3 / number)
        norms.append(float(clip_and_step(optimizer, model.parameters(), clip)))
        optimizer.zero_grad(set_to_none=True)
    return norms


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of all weights."""
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("config", EVERY, ids=lambda config: f"{config.optimizer}-{config.rounding}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_resumed_run_ends_in_the_same_bits(config: TrainConfig, dtype: torch.dtype) -> None:
    """Every optimizer, through the bytes of a file: four steps equal two, saved, loaded elsewhere, and two more."""
    straight, resumed = make_model(dtype=dtype), make_model(dtype=dtype, seed=1)
    first, second = (build_optimizer(model, config, seed=7) for model in (straight, resumed))
    run(straight, first, range(1, 3), clip=1.0)
    saved = safetensors.torch.save(optimizer_tensors(first, straight))
    resumed.load_state_dict(straight.state_dict())
    load_optimizer(second, resumed, safetensors.torch.load(saved))
    for model, optimizer in ((straight, first), (resumed, second)):
        run(model, optimizer, range(3, 5), clip=1.0)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))
    left, right = optimizer_tensors(first, straight), optimizer_tensors(second, resumed)
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("config", EVERY, ids=lambda config: f"{config.optimizer}-{config.rounding}")
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nothing_changes_where_the_gradient_is_not_finite(config: TrainConfig, bad: float) -> None:
    """One bad number: the norm says so, and no weight, no moment and no count moves."""
    model = make_model(dtype=torch.bfloat16)
    optimizer = build_optimizer(model, config)
    run(model, optimizer, range(1, 3))
    weights, state = weights_of(model), {k: v.clone() for k, v in optimizer_tensors(optimizer, model).items()}
    set_gradients(model, 3)
    next(iter(model.parameters())).grad.view(-1)[5] = bad
    assert not math.isfinite(float(clip_and_step(optimizer, model.parameters(), 1.0)))
    assert all(torch.equal(weight, weights[name]) for name, weight in model.named_parameters())
    assert all(torch.equal(value, state[name]) for name, value in optimizer_tensors(optimizer, model).items())


def test_bfloat16_with_its_lower_half_is_float32_to_the_bit() -> None:
    """Thirty updates, most of them far too small for bfloat16: master weights equal torch's float32 AdamW."""
    half = make_model(dtype=torch.bfloat16)
    whole = make_model(dtype=torch.float32)
    whole.load_state_dict({name: weight.float() for name, weight in half.state_dict().items()})
    config = TrainConfig(weight_decay=0.1)
    first, second = build_optimizer(half, config), build_optimizer(whole, config)
    assert type(second) is torch.optim.AdamW, "float32 on the host trains as it always did"
    run(half, first, range(1, 31))
    run(whole, second, range(1, 31))
    for short, long in zip(half.parameters(), whole.parameters(), strict=True):
        assert torch.equal(widen(short.detach(), first.state[short]["low"]), long)
        assert torch.equal(first.state[short]["exp_avg_sq"], second.state[long]["exp_avg_sq"])


def test_clipping_is_that_of_torch() -> None:
    """The norm and the update of clipped gradients, against clip_grad_norm_ and torch's AdamW."""
    mine, plain = make_model(dtype=torch.float32), make_model(dtype=torch.float32)
    config = TrainConfig()
    guarded = Guarded([{"params": list(mine.parameters())}], betas=(config.beta1, config.beta2), rounding="master")
    norms = run(mine, guarded, range(1, 6), clip=0.5)
    theirs = run(plain, build_optimizer(plain, config), range(1, 6), clip=0.5)
    assert norms == pytest.approx(theirs, rel=1e-6) and norms[0] > 0.5
    for one, two in zip(mine.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=2e-8)


def test_the_norm_of_16_bit_gradients_is_not_rounded() -> None:
    """Summed in float32: to seven digits, where bfloat16 holds three."""
    gradients = [torch.randn(1000, generator=torch.Generator().manual_seed(k)).bfloat16() for k in range(5)]
    want = math.sqrt(sum(float(g.double().square().sum()) for g in gradients))
    assert float(gradient_norm(gradients)) == pytest.approx(want, rel=1e-6)
    mixed = [*gradients, gradients[0].float(), gradients[1].double()]
    again = math.sqrt(want**2 + sum(float(g.double().square().sum()) for g in gradients[:2]))
    assert float(gradient_norm(mixed)) == pytest.approx(again, rel=1e-6)


def drift(rounding: str, *, steps: int = 80) -> float:
    """Return how far weights of 1 moved in updates of 1/40 of what bfloat16 can hold, as a share of the true way."""
    model = torch.nn.Linear(64, 64, bias=False, dtype=torch.bfloat16)
    torch.nn.init.ones_(model.weight)
    config = TrainConfig.model_validate({"rounding": rounding})
    optimizer = build_optimizer(model, config, seed=3)
    for _ in range(steps):
        model.weight.grad = torch.ones_like(model.weight)
        set_learning_rate(optimizer, 2.0**-8 / 40)  # below 1, neighbours are 2^-8 apart; each update is the rate
        optimizer.step()
    return float((1 - model.weight.detach().double()).mean()) / (steps * 2.0**-8 / 40)


def test_small_updates_are_kept() -> None:
    """Updates far below the distance of bfloat16 numbers add up: at random on average, with the lower half exactly."""
    assert drift("stochastic") == pytest.approx(1, abs=0.06)  # four standard errors over 4,096 weights
    assert drift("master") == pytest.approx(1, abs=1e-6), "two neighbours down"
    plain = torch.ones(1, dtype=torch.bfloat16)
    for _ in range(80):
        plain -= 2.0**-8 / 40
    assert float(plain) == 1, "what both are for: bfloat16 alone never moves"


def learn(config: TrainConfig, dtype: torch.dtype, *, rate: float, steps: int = 40) -> list[float]:
    """Return the losses of a tiny model that learns a few rows by heart."""
    model = make_model(dtype=dtype)
    optimizer = build_optimizer(model, config)
    batch = flat_batch(make_rows([9, 17, 12, 30]))
    set_learning_rate(optimizer, rate)
    losses = []
    for _ in range(steps):
        sums = loss_sums(model, batch)
        (sums.loss / sums.tokens).backward()
        losses.append(float(sums.loss.detach() / sums.tokens))
        clip_and_step(optimizer, model.parameters(), 1.0)
        optimizer.zero_grad(set_to_none=True)
    return losses


def test_8_bit_moments_learn_as_float32_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every loss on the way is within a few percent; with all squares lost, it is not (the test can fail)."""
    monkeypatch.setattr("attune.train.optimizers.adamw.SMALLEST_8_BIT", 1)
    whole = learn(TrainConfig(), torch.float32, rate=3e-3)
    eight = learn(TrainConfig(optimizer="adamw_8bit"), torch.float32, rate=3e-3)
    assert whole[-1] < 0.5 * whole[0]
    assert eight == pytest.approx(whole, rel=0.05)
    right = adamw.quantise_square
    monkeypatch.setattr(adamw, "quantise_square", lambda values: (right(values)[0] * 0, right(values)[1]))
    assert learn(TrainConfig(optimizer="adamw_8bit"), torch.float32, rate=3e-3) != pytest.approx(whole, rel=0.05)


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (16, 16)])
def test_directions_get_equal_length(shape: tuple[int, int]) -> None:
    """Singular values come near 1, singular vectors stay."""
    matrix = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    left, before, right = torch.linalg.svd(matrix, full_matrices=False)
    kept = left.T @ orthogonalise(matrix) @ right.T
    found = kept.diagonal()
    assert bool((found[before > 0.1] > 0.6).all()) and bool((found < 1.25).all())
    torch.testing.assert_close(kept, torch.diag(found), rtol=0, atol=1e-9)


def test_muon_is_that_of_torch() -> None:
    """Matrices move as with torch.optim.Muon (bfloat16 inside) whose updates are as long as AdamW's."""
    mine, theirs = (torch.nn.Linear(48, 32, bias=False) for _ in range(2))
    theirs.load_state_dict(mine.state_dict())
    guarded = build_optimizer(mine, TrainConfig(optimizer="muon", weight_decay=0.1))
    other = torch.optim.Muon(
        theirs.parameters(), lr=1e-2, momentum=MOMENTUM, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    start = mine.weight.detach().clone()
    set_learning_rate(guarded, 1e-2)
    for number in range(1, 6):
        for model in (mine, theirs):
            set_gradients(model, number)
        guarded.step()
        other.step()
    moved = (theirs.weight - start).norm()
    assert float((mine.weight - theirs.weight).detach().norm() / moved.detach()) < 0.02


def test_muon_is_for_hidden_matrices_only() -> None:
    """Embedding, head, norms and biases stay with AdamW, a head that is the embedding too."""
    for name in ("llama", "gpt2"):
        model = make_model(name, dtype=torch.float32)
        optimizer = build_optimizer(model, TrainConfig(optimizer="muon"))
        rules = {id(p): group["rule"] for group in optimizer.param_groups for p in group["params"]}
        for key, weight in model.named_parameters():
            outer = weight.ndim != 2 or "embed" in key or "wte" in key or "wpe" in key or "lm_head" in key
            assert rules[id(weight)] == ("adamw" if outer else "muon"), key
    assert learn(TrainConfig(optimizer="muon"), torch.float32, rate=3e-3)[-1] < 1


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit", "muon"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_bytes_are_those_of_the_state(name: str, dtype: torch.dtype) -> None:
    """What a plan says is what the tensors take, to the byte."""
    model = make_model(dtype=dtype)
    config = TrainConfig.model_validate({"optimizer": name})
    optimizer = build_optimizer(model, config)
    run(model, optimizer, range(1, 2))
    found = sum(v.numel() * v.element_size() for v in optimizer_tensors(optimizer, model).values())
    assert state_bytes(model, config) == found
    with torch.device("meta"):
        shapes = type(model)(model.config).to(dtype)
    assert state_bytes(shapes, config) == found


RELEASE = {"gradient_release": True, "clip": 1e6}


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit", "muon"])
def test_released_gradients_make_the_same_update(name: str) -> None:
    """Weights and norm equal those of a step after the backward pass, and no gradient is left when it ends."""
    losses, norms, ends = [], [], []
    for settings in ({}, RELEASE):
        model = make_model(dtype=torch.float32)
        optimizer = build_optimizer(model, TrainConfig.model_validate({"optimizer": name, **settings}))
        set_learning_rate(optimizer, 1e-2)
        for _ in range(3):
            sums = loss_sums(model, flat_batch(make_rows([9, 17])))
            sums.loss.backward()
            assert all((p.grad is None) == bool(settings) for p in model.parameters())
            losses.append(float(sums.loss.detach()))
            norms.append(float(clip_and_step(optimizer, model.parameters(), 1e6)))
            optimizer.zero_grad(set_to_none=True)
        ends.append(weights_of(model))
    assert losses[:3] == losses[3:]
    assert norms[:3] == pytest.approx(norms[3:], rel=1e-6)
    assert all(torch.equal(weight, ends[1][key]) for key, weight in ends[0].items())


def test_a_released_gradient_that_is_not_finite_changes_nothing() -> None:
    """The weight it belongs to stays, and the norm tells."""
    model = make_model(dtype=torch.float32)
    optimizer = build_optimizer(model, TrainConfig.model_validate(RELEASE))
    set_learning_rate(optimizer, 1e-2)
    before = weights_of(model)
    (loss_sums(model, flat_batch(make_rows([9]))).loss * math.inf).backward()
    assert not math.isfinite(float(clip_and_step(optimizer, model.parameters(), 1e6)))
    assert all(torch.equal(weight, before[key]) for key, weight in model.named_parameters())
