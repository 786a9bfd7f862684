"""The loop: one optimizer step after another, each yielded as a record. No logging, saving or evaluating here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from attune.data.batch import learned_weight, on_device
from attune.errors import TrainingError
from attune.evals.heldout import arithmetic
from attune.model.loss import loss_sums
from attune.train.metrics import Meter
from attune.train.optim import set_learning_rate
from attune.types import Batch, StepRecord
from attune.world import World, seed_step


@dataclass(frozen=True, slots=True)
class Step:
    """The rows of one optimizer step as micro-batches, with its number (from 1) and the epoch it ends at."""

    number: int
    epoch: float
    batches: tuple[Batch, ...]
    places: Callable[[], Sequence[str]] = tuple  # where its rows stand, asked for only when something broke


def train_steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: Iterable[Step],
    *,
    learning_rate: Callable[[int], float],
    meter: Meter,
    world: World,
    seed: int,
    clip: float,
    precision: str,
) -> Iterator[StepRecord]:
    """Train and yield one record per step.

    The gradient is that of the summed loss over the learned tokens of the whole step divided by their number, so the
    shape of the micro-batches never changes it.

    Raises TrainingError before the update if loss or gradient is not finite.
    """
    for step in steps:
        seed_step(seed, step.number, world.rank)
        set_learning_rate(optimizer, rate := learning_rate(step.number))
        tokens = sum(learned_weight(batch) for batch in step.batches)
        sums = torch.zeros(2, dtype=torch.float64, device=world.device)  # loss, right
        for batch in step.batches:
            with arithmetic(precision, world.device):
                part = loss_sums(model, on_device(batch, world.device))
            (part.loss / tokens).backward()
            sums += torch.stack([part.loss.detach().double(), part.correct.double()])
        norm = nn.utils.clip_grad_norm_(model.parameters(), clip)
        loss, right = (sums / tokens).tolist()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingError(_not_finite(step, loss, float(norm)))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield meter.record(
            step.number, step.epoch, step.batches, loss=loss, accuracy=right, learning_rate=rate, grad_norm=float(norm)
        )


def _not_finite(step: Step, loss: float, norm: float) -> str:
    """Say what broke and which rows were in the step."""
    places = step.places()
    return (
        f"step {step.number}: loss {loss}, gradient norm {norm}; nothing was updated with it.\n"
        f"Rows of this step: {', '.join(places[:4])}{' and others' if len(places) > 4 else ''}.\n"
        "Lower train.learning_rate or train.clip, or use --precision float32; the last checkpoint is intact."
    )
