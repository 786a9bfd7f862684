"""Cross entropy of rows of logits: the twin against formulas written out, the kernel against the twin."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import ModuleType
from typing import Literal

import pytest
import torch
from torch import Tensor

from attune.config import TrainConfig
from attune.model.kernels import cross_entropy as real
from attune.model.kernels.cross_entropy import LossOptions
from tests.model.interpreted import interpreted
from tests.model.mutants import mutant_of

KINDS: tuple[Literal["nll", "dft"], ...] = ("nll", "dft")
OPTIONS = [LossOptions(*choice) for choice in itertools.product(KINDS, (0.0, 0.1), (0.0, 1e-2))]


def make_logits(rows: int, columns: int, dtype: torch.dtype, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits whose rows lie apart, targets and weights; in turn the target is nearly certain and a near miss."""
    torch.manual_seed(seed)
    room = torch.full((rows, columns + 7), 5.0, dtype=dtype)
    logits, targets = room[:, :columns], torch.randint(0, columns, (rows,))
    logits.copy_(6 * torch.randn(rows, columns))
    logits[::2].scatter_add_(1, targets[::2, None], torch.full((rows, 1), 9.0, dtype=dtype)[::2])
    logits[1::2].scatter_(1, targets[1::2, None], logits[1::2].amax(1, keepdim=True) - 0.5)
    return logits, targets, torch.rand(rows) + 0.5


def written_out(logits: Tensor, targets: Tensor, options: LossOptions, softcap: float | None) -> Tensor:
    """Return the loss of each row by its formula, step by step."""
    capped = torch.tanh(logits / softcap) * softcap if softcap else logits
    shares = torch.exp(capped) / torch.exp(capped).sum(1, keepdim=True)
    own = shares.gather(1, targets[:, None])[:, 0]
    smoothing = options.label_smoothing
    losses = -(1 - smoothing) * own.log() - smoothing * shares.log().mean(1)
    if options.kind == "dft":
        losses = losses * own.detach()
    return losses + options.z_loss * torch.exp(capped).sum(1).log().square()


def check(module: ModuleType, options: LossOptions, softcap: float | None, *, dtype: torch.dtype) -> None:
    """Compare what a module finds for logits of `dtype` with the formula in float64."""
    for rows, columns, is_weighted in ((5, 61, False), (4, 300, True)):
        logits, targets, weights = make_logits(rows, columns, dtype)
        exact = logits.double().clone().requires_grad_()
        losses = written_out(exact, targets, options, softcap)
        (losses * (weights.double() if is_weighted else 1)).sum().mul(0.37).backward()
        found = module.cross_entropy(
            logits, targets, weights if is_weighted else None, options, softcap=softcap, scale=0.37
        )
        tolerance = 1e-9 if dtype == torch.float64 else 2e-5
        torch.testing.assert_close(found.losses.double(), losses.detach(), rtol=tolerance, atol=tolerance)
        plain = written_out(exact, targets, LossOptions(), softcap).detach()
        torch.testing.assert_close(found.nll.double(), plain, rtol=tolerance, atol=tolerance)
        assert torch.equal(found.correct > 0, exact.argmax(1) == targets)
        assert exact.grad is not None
        # 16 bits: one rounding, towards zero in Triton's interpreter
        digits = 2**-7 if dtype == torch.bfloat16 else tolerance
        torch.testing.assert_close(logits.double(), exact.grad, rtol=digits, atol=tolerance)


def survives(module: ModuleType, dtype: torch.dtype) -> bool:
    """Whether the comparison finds nothing wrong with a module, with any options."""
    try:
        for options, softcap in itertools.product(OPTIONS, (None, 10.0)):
            check(module, options, softcap, dtype=dtype)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("softcap", [None, 10.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_twin_is_the_formula(dtype: torch.dtype, softcap: float | None) -> None:
    """Losses and gradients agree with autograd of the formula in float64, for every option."""
    for options in OPTIONS:
        check(real, options, softcap, dtype=dtype)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("-(1 - smoothing) * pull[:, None])", "-0.99 * (1 - smoothing) * pull[:, None])"),
        ("gradient.sub_(smoothing / values.shape[1]", "gradient.sub_(smoothing / 64"),
        ("slope = 1 - values * values  # of", "slope = 1 - values  # of"),
        ("2 * options.z_loss * log_total[:, None])\n    elif", "options.z_loss * log_total[:, None])\n    elif"),
        ("options.z_loss * log_total.square()", "options.z_loss * log_total"),
        ("factors * weights.to(wide)", "factors"),
    ],
)
def test_a_broken_twin_is_seen(tmp_path: Path, old: str, new: str) -> None:
    """The comparison finds each of these faults."""
    assert not survives(mutant_of(real, tmp_path, old=old, new=new), torch.float64)


@interpreted
@pytest.mark.parametrize("softcap", [None, 10.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_interpreted_kernel(dtype: torch.dtype, softcap: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel agrees with the formula in float64, in one block and in several."""
    for block, options in (*((128, options) for options in OPTIONS), (8192, OPTIONS[0]), (8192, OPTIONS[-1])):
        monkeypatch.setattr(real, "_BLOCK", block)
        assert real.has_kernel(torch.zeros(1, dtype=dtype), options)
        check(real, options, softcap, dtype=dtype)


@interpreted
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("tl.where(column == target, pull * (1 - SMOOTHING), 0.0)", "tl.where(column == target, 0.0, 0.0)"),
        ("pull * (SMOOTHING / COLUMNS)", "pull * (SMOOTHING / BLOCK)"),
        ("slope = 1 - values * values\n", "slope = 1 - values\n"),
        ("total * tl.exp(before - highest)", "total"),
        ("push = pull + 2 * Z_LOSS * log_total", "push = pull + Z_LOSS * log_total"),
        ("factor * slope * gradient", "slope * gradient"),
        ("(column < target)", "(column <= target)"),
        ("pull = tl.exp(-nll)", "pull = tl.exp(-2 * nll)"),
("ahead += (", "ahead = ("),
    ],
)  # fmt: skip
def test_interpreted_mutant(tmp_path: Path, old: str, new: str) -> None:
    """A kernel with one of these faults does not agree."""
    module = mutant_of(real, tmp_path, old=old, new=new)
    module._BLOCK = 128  # type: ignore[attr-defined]
    assert not survives(module, torch.float32)


def test_without_gradients_the_logits_stay() -> None:
    """Evaluation reads the logits and leaves them as they are."""
    logits, targets, _ = make_logits(5, 61, torch.float32)
    before = logits.clone()
    real.cross_entropy(logits, targets, None, LossOptions(label_smoothing=0.1), softcap=10.0, gradients=False)
    assert torch.equal(logits, before)


def test_what_lies_between_the_rows_stays() -> None:
    """Only the columns of the vocabulary are written; the room to the next row is not."""
    logits, targets, _ = make_logits(5, 61, torch.bfloat16)
    real.cross_entropy(logits, targets, None, LossOptions())
    assert torch.equal(logits.as_strided((5, 7), (68, 1), 61), torch.full((5, 7), 5.0, dtype=torch.bfloat16))


def test_rows_are_split_where_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin may hold few rows at once; losses and gradients are the same."""
    logits, targets, weights = make_logits(9, 61, torch.float32)
    whole = logits.clone()
    one = real.cross_entropy(whole, targets, weights, OPTIONS[-1])
    monkeypatch.setattr(real, "_BYTES", 2 * 61 * 4)
    many = real.cross_entropy(logits, targets, weights, OPTIONS[-1])
    assert (
        torch.equal(logits, whole) and torch.equal(one.losses, many.losses) and torch.equal(one.correct, many.correct)
    )


def test_the_first_of_equals_is_ranked_first() -> None:
    """Of equal logits the one with the lowest number wins, so that a tie is counted the same way everywhere."""
    logits = torch.tensor([[1.0, 3.0, 3.0], [1.0, 3.0, 3.0]])
    found = real.cross_entropy(logits, torch.tensor([1, 2]), None, LossOptions(), gradients=False)
    assert found.correct.tolist() == [1.0, 0.0]


def test_no_rows_give_empty_losses() -> None:
    """A batch without learned tokens is no special case."""
    found = real.cross_entropy(torch.empty(0, 61), torch.empty(0, dtype=torch.int64), None, LossOptions())
    assert found.losses.shape == found.nll.shape == found.correct.shape == (0,)


def test_settings_become_options() -> None:
    """What the config says is what is minimised; plain kernels mean no Triton."""
    config = TrainConfig(loss="dft", label_smoothing=0.1, z_loss=1e-4, kernels="plain")
    assert LossOptions.of(config) == LossOptions("dft", 0.1, 1e-4, fused=False)
    assert LossOptions.of(TrainConfig()) == LossOptions()
