"""How a step's rows lie in memory never changes the result: 1 x 8 = 8 x 1 = 4 x 2, nor does that of validation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from attune.config import TrainConfig
from attune.data.batch import to_batch
from attune.data.layout import lay_out
from attune.evals.heldout import measure
from attune.train.feed import Step
from attune.train.loop import train_steps
from attune.train.metrics import FlosCounter, Meter
from attune.train.optim import build_optimizer
from attune.types import StepRecord
from attune.world import World
from tests.tiny import make_corpus, make_model

LENGTHS = [5, 11, 3, 17, 8, 8, 2, 13]


def run(shape: list[list[int]]) -> tuple[list[torch.Tensor], list[StepRecord]]:
    """Train three steps on the same eight rows, laid out in micro-batches of the given shape; float64."""
    model = make_model().train()
    corpus = make_corpus(LENGTHS)
    steps = (Step(n, 0.0, tuple(to_batch(corpus, np.asarray(part)) for part in shape)) for n in (1, 2, 3))
    records = list(
        train_steps(
            model,
            build_optimizer(model, TrainConfig()),
            steps,
            learning_rate=lambda step: 0.01,
            meter=Meter(FlosCounter.of(model), device=torch.device("cpu")),
            world=World(),
            seed=0,
            clip=1.0,
            precision="float64",
        )
    )
    return [p.detach().clone() for p in model.parameters()], records


@pytest.mark.parametrize(
    "shape", [[[row] for row in range(8)], [[0, 1], [2, 3], [4, 5], [6, 7]], [[7, 0, 3], [1], [2, 4, 5, 6]]]
)
def test_accumulation_shape_changes_nothing(shape: list[list[int]]) -> None:
    """Weights, losses and gradient norms after three steps agree with one micro-batch of all rows (float64).

    AdamW divides by the gradient's size, so rounding in near-zero gradients grows; hence 1e-6 after three steps.
    """
    weights, records = run([list(range(8))])
    others, other_records = run(shape)
    for mine, other in zip(weights, others, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)
    for one, two in zip(records, other_records, strict=True):
        assert one.loss == pytest.approx(two.loss, rel=1e-7)
        assert one.grad_norm == pytest.approx(two.grad_norm, rel=1e-5)
        assert (one.accuracy, one.learned_tokens, one.train_flos) == (two.accuracy, two.learned_tokens, two.train_flos)


def test_a_mean_of_means_would_be_seen() -> None:
    """The test above can fail: averaging micro-batch means instead gives another loss."""
    model, corpus = make_model(), make_corpus(LENGTHS)
    whole = measure(model, corpus, micro_tokens=10_000).loss
    rows = measure(model, corpus, micro_tokens=10_000).row_loss
    assert abs(float(np.nanmean(rows)) - whole) > 1e-3


def test_validation_does_not_depend_on_its_batches() -> None:
    """Loss, accuracy and every row's loss are the same for any micro-batch size (float64)."""
    model, corpus = make_model(), make_corpus(LENGTHS)
    whole = measure(model, corpus, micro_tokens=10_000)
    for micro_tokens in (1, 9, 20):
        part = measure(model, corpus, micro_tokens=micro_tokens)
        assert part.loss == pytest.approx(whole.loss, rel=1e-6)
        assert (part.accuracy, part.tokens) == (whole.accuracy, whole.tokens)
        np.testing.assert_allclose(part.row_loss, whole.row_loss, rtol=1e-5)


def test_every_row_is_laid_out_once() -> None:
    """Nothing is lost or doubled on the way into micro-batches, whatever their size."""
    for micro_tokens in (1, 8, 20, 1000):
        parts = lay_out(np.asarray(LENGTHS), micro_tokens)
        assert sorted(row for part in parts for row in part) == list(range(len(LENGTHS)))
        assert all(sum(LENGTHS[row] for row in part) <= micro_tokens or len(part) == 1 for part in parts)


def test_steps_of_a_stream_are_iterated_lazily() -> None:
    """The loop takes one step at a time, so stopping early prepares nothing in vain."""
    taken: list[int] = []
    model, corpus = make_model(), make_corpus(LENGTHS)

    def steps() -> Iterator[Step]:
        for number in range(1, 100):
            taken.append(number)
            yield Step(number, 0.0, (to_batch(corpus, np.arange(8)),))

    records = train_steps(
        model,
        build_optimizer(model, TrainConfig()),
        steps(),
        learning_rate=lambda step: 0.01,
        meter=Meter(FlosCounter.of(model), device=torch.device("cpu")),
        world=World(),
        seed=0,
        clip=1.0,
        precision="float64",
    )
    next(records)
    next(records)
    assert taken == [1, 2]
