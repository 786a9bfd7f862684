"""When memory runs out a step goes on in smaller micro-batches, ends the same, and says so; else it says what to do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from attune.config import TrainConfig
from attune.data.batch import to_batch
from attune.data.layout import lay_out
from attune.errors import OutOfMemoryError
from attune.train.feed import Step
from attune.train.loop import train_steps
from attune.train.metrics import FlosCounter, Meter
from attune.train.optim import build_optimizer
from attune.train.room import Room, is_out_of_memory, needs_memory
from attune.types import Batch, StepRecord
from attune.world import World
from tests.tiny import make_corpus, make_model

LENGTHS = [40, 31, 22, 57, 90, 18, 12, 63]
CORPUS = make_corpus(LENGTHS)
STEPS = 3


def lay(micro_tokens: int) -> tuple[Batch, ...]:
    """Return the micro-batches of all rows."""
    return tuple(to_batch(CORPUS, part) for part in lay_out(LENGTHS, micro_tokens))


def run(
    model: torch.nn.Module, room: Room | None, *, laid_for: int = 400, relay: Callable[[int], Any] | None = lay
) -> list[StepRecord]:
    """Train some steps on all rows, each laid out as if there were room for `laid_for` tokens."""

    def steps() -> Iterator[Step]:
        for number in range(1, STEPS + 1):
            yield Step(number, 0.0, lay(laid_for), lambda: ["rows.jsonl:1"], relay, laid_for)

    return list(
        train_steps(
            model.train(),
            build_optimizer(model, TrainConfig()),
            steps(),
            learning_rate=lambda step: 0.01,
            meter=Meter(FlosCounter.of(model), device=torch.device("cpu")),
            world=World(),
            seed=0,
            clip=1.0,
            precision="float64",
            room=room,
        )
    )


def limit(model: torch.nn.Module, tokens: int, tried: list[int], *, in_backward: bool = False) -> torch.nn.Module:
    """Make a model run out of memory with more than so many tokens at once, on the way forward or back."""

    def refuse(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def look(_: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        hidden = inputs[0] if inputs else options["hidden_states"]
        tried.append(hidden.shape[1])
        if hidden.shape[1] > tokens:
            if not in_backward:
                refuse()
            hidden.register_hook(refuse)

    model.model.layers[1].register_forward_pre_hook(look, with_kwargs=True)  # type: ignore[index, union-attr]
    return model


@pytest.mark.parametrize("in_backward", [False, True])
def test_the_step_goes_on_with_the_same_mathematics(in_backward: bool) -> None:
    """Weights and records are those of a run that never ran out of memory; what was half done leaves no trace."""
    plain, small = make_model(), make_model()
    wanted = run(plain, None)
    told: list[str] = []
    tried: list[int] = []
    room = Room(400, tell=told.append)
    records = run(limit(small, 100, tried, in_backward=in_backward), room)
    for mine, other in zip(small.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)
    for one, two in zip(records, wanted, strict=True):
        assert one.loss == pytest.approx(two.loss, rel=1e-9)
        assert one.grad_norm == pytest.approx(two.grad_norm, rel=1e-6)
        assert (one.learned_tokens, one.tokens, one.train_flos) == (two.learned_tokens, two.tokens, two.train_flos)
    assert [size for size in tried if size > 100] == [333, 112], "after two attempts no step was too large"
    assert room.micro_tokens == 64
    assert len(told) == 2
    assert told[0].startswith("step 1: out of memory with 333 tokens at once; going on with 166.")
    assert "train.micro_tokens 64" in told[1]


def test_a_lost_micro_batch_would_be_seen() -> None:
    """The test above can fail: a step that goes on without what had been computed ends elsewhere."""
    wanted = run(make_model(), None)
    parts = run(make_model(), None, laid_for=90, relay=None)
    assert parts[0].loss == pytest.approx(wanted[0].loss, rel=1e-9)
    lost = make_model()
    (record, *_) = list(
        train_steps(
            lost,
            build_optimizer(lost, TrainConfig()),
            [Step(1, 0.0, lay(90)[1:])],
            learning_rate=lambda step: 0.01,
            meter=Meter(FlosCounter.of(lost), device=torch.device("cpu")),
            world=World(),
            seed=0,
            clip=1.0,
            precision="float64",
        )
    )
    assert abs(record.loss - wanted[0].loss) > 1e-3


def test_a_row_that_does_not_fit_says_what_to_do() -> None:
    """A single row cannot be halved: the run ends with exit code 6, in few lines, and nothing was updated."""
    model = make_model()
    start = [weight.clone() for weight in model.parameters()]
    with pytest.raises(OutOfMemoryError, match=r"step 1: out of memory with one row of 90 tokens") as caught:
        run(limit(model, 70, []), Room(400))
    text = str(caught.value)
    assert caught.value.exit_code == 6
    assert "train.checkpointing" in text and "adapter.kind" in text and "attune plan" in text
    assert len(text.splitlines()) <= 6
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), start, strict=True))


def test_64_tokens_are_the_least() -> None:
    """Below 64 tokens there is nothing to gain, though there is more than one row."""
    room = Room(400)
    room.shrink(to_batch(CORPUS, [2, 3]), step=2, device=torch.device("cpu"))
    assert room.micro_tokens == 64
    with pytest.raises(OutOfMemoryError, match="step 2: out of memory with 3 rows of 52 tokens"):
        room.shrink(to_batch(CORPUS, [2, 5, 6]), step=2, device=torch.device("cpu"))


@pytest.mark.parametrize(("room", "relay"), [(None, lay), (Room(400), None)])
def test_without_a_way_out_the_error_stays(room: Room | None, relay: Callable[[int], Any] | None) -> None:
    """A loop that was given no room, or steps that cannot be laid out again, hide nothing."""
    with pytest.raises(torch.OutOfMemoryError):
        run(limit(make_model(), 100, []), room, relay=relay)


def test_other_errors_are_not_taken_for_it() -> None:
    """Only what says that memory ran out is."""
    assert is_out_of_memory(torch.OutOfMemoryError("x"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"))
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
    model = make_model()
    model.model.layers[0].register_forward_pre_hook(lambda *_: math.sqrt(-1))
    with pytest.raises(ValueError):
        run(model, Room(400))


def test_memory_that_runs_out_elsewhere_is_named() -> None:
    """Loading, validating and updating cannot be done in smaller parts: what was being done is said, and what to do."""
    with (
        pytest.raises(OutOfMemoryError, match=r"out of memory while loading the model\.\n.*adapter\.kind"),
        needs_memory("loading the model"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory.")
    with pytest.raises(RuntimeError, match="something else"), needs_memory("loading the model"):
        raise RuntimeError("something else")


def test_a_fixed_room_is_not_halved() -> None:
    """A step whose weights change on the way cannot begin again: the run ends, and says why."""
    with pytest.raises(
        OutOfMemoryError, match=r"8 rows of 333 tokens; train\.gradient_release keeps a step in one piece"
    ):
        run(limit(make_model(), 100, []), Room(400, is_fixed=True))
