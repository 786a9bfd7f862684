"""The steps' way to the device: the next one is built and copied while the device computes the present one.

No thread does it. The host has launched a step long before the device has computed it; what it has to wait for the
step's numbers is the time in which it builds the next. A thread would ask for Python's lock just then, and make the
launch of the next step wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from attune.data.batch import on_device
from attune.model.divergence import TopK
from attune.train.metrics import Counts
from attune.types import Batch


@dataclass(frozen=True, slots=True)
class Replayed:
    """General text beside a step's rows, each batch with what the base makes of its tokens (None: not asked for).

    It adds the gradient of weight * mean loss + kl * mean divergence over its tokens.
    """

    batches: tuple[tuple[Batch, TopK | None], ...]
    weight: float
    kl: float

    @property
    def tokens(self) -> int:
        """How many tokens are learned, which is what sums are divided by."""
        return sum(batch.learned_tokens for batch, _ in self.batches)


@dataclass(frozen=True, slots=True)
class Step:
    """The rows of one optimizer step as micro-batches, with its number (from 1) and the epoch it ends at."""

    number: int
    epoch: float
    batches: tuple[Batch, ...]
    places: Callable[[], Sequence[str]] = tuple  # where its rows stand, asked for only when something broke
    relay: Callable[[int], tuple[Batch, ...]] | None = None  # lays it out again for so many tokens at once
    micro_tokens: int = 0  # what it was laid out for
    counts: Counts | None = None  # known before its batches moved to the device
    replay: Callable[[int], Replayed] | None = None  # what is replayed beside it, for so many tokens at once
    replayed: Replayed | None = None  # the same, made

    def laid_out(self, micro_tokens: int) -> Step:
        """Return the same step for fewer tokens at once."""
        assert self.relay is not None, "a step that cannot be laid out again"
        return replace(
            self, batches=self.relay(micro_tokens), micro_tokens=micro_tokens, counts=None, replayed=None
        ).counted()

    def counted(self) -> Step:
        """Return the step with what is replayed beside it made, and all that it computes counted."""
        replayed = self.replayed
        if replayed is None and self.replay is not None:
            replayed = self.replay(self.micro_tokens)
        counts = self.counts or Counts.of(self.batches)
        if replayed is not None and self.counts is None:
            counts = counts.beside(Counts.of([batch for batch, _ in replayed.batches]))
        return replace(self, counts=counts, replayed=replayed)


class Feed:
    """Steps one by one, with their batches on the device; what was prepared in vain is built again at a resume."""

    def __init__(self, steps: Iterable[Step], device: torch.device) -> None:
        self._steps, self._device = iter(steps), device
        self._next: Step | BaseException | None = None

    def prepare(self) -> None:
        """Build the next step and start its copies, if the device has work meanwhile; an error is kept for `take`."""
        if self._device.type == "cpu" or self._next is not None:
            return
        try:
            self._next = self._build()
        except BaseException as error:
            self._next = error

    def take(self) -> Step | None:
        """Return the next step, None after the last. Raises what building it raised."""
        found, self._next = self._next, None
        if isinstance(found, BaseException):
            raise found
        return self._build() if found is None else found

    def _build(self) -> Step | None:
        step = next(self._steps, None)
        if step is None:
            return None
        step = step.counted()  # here, where counting waits for nothing
        if self._device.type == "cpu":
            return step
        return replace(step, batches=tuple(on_device(batch, self._device) for batch in step.batches))
