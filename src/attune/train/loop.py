"""The loop: one optimizer step after another, each yielded as a record. No logging, saving or evaluating here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attune.data.batch import on_device
from attune.errors import TrainingError
from attune.evals.heldout import arithmetic
from attune.model.divergence import TopK, replay_sums
from attune.model.loss import PLAIN, LossOptions, loss_sums
from attune.train.feed import Feed, Replayed, Step
from attune.train.metrics import Counts, Meter
from attune.train.optim import clip_and_step, set_learning_rate
from attune.train.room import Room, is_out_of_memory, needs_memory
from attune.types import Batch, StepRecord
from attune.world import World, seed_step


class NotFiniteError(TrainingError):
    """A loss or gradient that is no number; `record` is that of its step."""

    def __init__(self, text: str, *, record: StepRecord) -> None:
        super().__init__(text)
        self.record = record


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How a step's gradient is computed."""

    world: World
    seed: int
    precision: str
    loss: LossOptions
    room: Room | None  # None: running out of memory ends the run


@dataclass(frozen=True, slots=True)
class _Launched:
    """A step whose work the device has been given, and what its record is made of once that is done."""

    step: Step
    counts: Counts
    rate: float
    numbers: Tensor  # float64 [4] on the host: loss, accuracy, loss of what was replayed, norm of the gradient
    done: torch.cuda.Event | None  # when they have arrived; None: they have

    def record(self, meter: Meter) -> StepRecord:
        """Wait for the numbers and return the record of the step."""
        if self.done is not None:
            self.done.synchronize()
        loss, right, replay, norm = self.numbers.tolist()
        return meter.record(
            self.step.number, self.step.epoch, self.counts, loss=loss, accuracy=right, learning_rate=self.rate,
            grad_norm=norm, replay_loss=replay if self.step.replayed else None,
        )  # fmt: skip


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
    loss: LossOptions = PLAIN,
    room: Room | None = None,
    skips: int = 0,
    runs_ahead: Callable[[int], bool] = lambda _: False,
) -> Iterator[StepRecord]:
    """Train and yield one record per step.

    The gradient is that of the summed loss over the learned tokens of the whole step divided by their number, so the
    shape of the micro-batches never changes it; what is replayed beside the rows adds its own means. Nothing is updated
    with a loss or gradient that is not finite; so many such steps in a row as `skips` says are passed over.

    A device need not wait until the host has read a step's numbers: where `runs_ahead`, asked once of each step after
    its launch, says so, the next step is launched first, and the model is one step further than the record.

    Raises NotFiniteError at the next of them, OutOfMemoryError when memory runs out and `room` has no smaller
    micro-batch to offer.
    """
    how = Arithmetic(world, seed, precision, loss, room)
    feed, skipped = Feed(steps, world.device), 0

    def read(launched: _Launched) -> StepRecord:
        nonlocal skipped
        record = launched.record(meter)
        skipped = 0 if math.isfinite(record.loss) and math.isfinite(record.grad_norm) else skipped + 1
        if skipped > skips:
            raise NotFiniteError(_not_finite(launched.step, record, done=_done(optimizer)), record=record)
        return record

    before: _Launched | None = None  # not read yet
    while True:
        now: _Launched | None = None
        fault: Exception | None = None
        try:
            if (step := feed.take()) is not None:
                now = _launch(model, optimizer, step, how, rate=learning_rate(step.number), clip=clip)
                feed.prepare()
        except Exception as error:  # raised when the step before it has been told
            fault = error
        if before is not None:
            yield read(before)
            before = None
        if fault is not None:
            raise fault
        if now is None:
            return
        if runs_ahead(now.step.number):
            before = now
        else:
            yield read(now)


def _launch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    given: Step,
    how: Arithmetic,
    *,
    rate: float,
    clip: float,
) -> _Launched:
    """Give the device all work of a step, the update of the weights included."""
    set_learning_rate(optimizer, rate)
    step, counts, sums = _gradients(model, optimizer, given, how)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    with needs_memory(f"updating the weights at step {step.number}"):
        norm = clip_and_step(optimizer, trained, clip)
    optimizer.zero_grad(set_to_none=True)
    numbers = torch.cat([sums, norm.detach().to(sums).reshape(1)]).to("cpu", non_blocking=True)
    done = None
    if how.world.device.type == "cuda":
        done = torch.cuda.Event()
        done.record()
    return _Launched(step, counts, rate, numbers, done)


def _gradients(
    model: nn.Module, optimizer: torch.optim.Optimizer, step: Step, how: Arithmetic
) -> tuple[Step, Counts, Tensor]:
    """Leave the step's gradient in the weights; return the step as it was laid out, its counts, and its means.

    These are loss, accuracy and the loss of what was replayed, float64 [3].

    When memory runs out, what was computed of the step is thrown away and it begins again in smaller micro-batches.
    """
    device = how.world.device
    while True:
        if how.room is not None and step.micro_tokens > how.room.micro_tokens:
            step = step.laid_out(how.room.micro_tokens)
        counts = step.counts or Counts.of(step.batches)
        sums = torch.zeros(2, dtype=torch.float64, device=device)
        beside = torch.zeros(1, dtype=torch.float64, device=device)
        replayed = () if step.replayed is None else step.replayed.batches
        seed_step(how.seed, step.number, how.world.rank)
        done = 0
        try:
            for batch in step.batches:
                sums += _backward(model, batch, counts.weight, how)
                done += 1
            for batch, base in replayed:
                beside += _backward_replayed(model, batch, base, step.replayed, how=how)
                done += 1
            return step, counts, torch.cat([sums / counts.weight, beside])
        except RuntimeError as error:
            if how.room is None or step.relay is None or not is_out_of_memory(error):
                raise
        # only here, out of the handler, is nothing left that holds the activations of the failed micro-batch
        optimizer.zero_grad(set_to_none=True)
        failed = (*step.batches, *(batch for batch, _ in replayed))[done]
        how.room.shrink(failed, step=step.number, device=device)


def _backward(model: nn.Module, batch: Batch, weight: float, how: Arithmetic) -> Tensor:
    """Add a micro-batch's share of the gradient to the weights; return its loss and right tokens, float64 [2]."""
    device = how.world.device
    if batch.tokens.device.type != device.type:
        batch = on_device(batch, device)
    with arithmetic(how.precision, device):
        part = loss_sums(model, batch, how.loss, scale=1 / weight if weight else math.nan)
    # 1, or NaN where the loss is not finite though its gradient is: then nothing may be updated either
    part.loss.backward(1 + 0 * part.loss.detach())
    return torch.stack([part.nll.double(), part.correct.double()])


def _backward_replayed(
    model: nn.Module, batch: Batch, base: TopK | None, replayed: Replayed | None, *, how: Arithmetic
) -> Tensor:
    """Add the gradient of replayed text to the weights; return its part of the mean loss, float64 [1]."""
    assert replayed is not None, "a batch of what is replayed"
    device = how.world.device
    with arithmetic(how.precision, device):
        loss, nll, _ = replay_sums(
            model,
            on_device(batch, device),
            base,
            weight=replayed.weight,
            kl=replayed.kl,
            options=how.loss,
            scale=1 / replayed.tokens,
        )
    loss.backward(1 + 0 * loss.detach())
    return nll.double().reshape(1) / replayed.tokens


def _done(optimizer: torch.optim.Optimizer) -> str:
    """Say what a step whose numbers went wrong has changed."""
    if getattr(optimizer, "releases", False):  # each weight is updated, or not, before the others are known
        return "only weights whose gradient is finite were updated"
    return "nothing was updated with it"


def _not_finite(step: Step, record: StepRecord, *, done: str) -> str:
    """Say what broke and which rows were in the step."""
    places = step.places()
    return (
        f"step {step.number}: loss {record.loss}, gradient norm {record.grad_norm}; {done}.\n"
        f"Rows of this step: {', '.join(places[:4])}{' and others' if len(places) > 4 else ''}.\n"
        "Lower train.learning_rate, or use --precision float32 if it is another; checkpoints are intact."
    )
