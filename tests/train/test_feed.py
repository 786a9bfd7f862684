"""Steps that are prepared ahead are the same steps, in order; errors and a stop come through, and no thread is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from attune.data.batch import to_batch
from attune.errors import DataError
from attune.train.feed import _Delivery, ahead, in_background
from attune.train.loop import Step
from attune.train.metrics import Counts
from tests.tiny import make_corpus

CORPUS = make_corpus([5, 11, 3, 17])


def make_steps(count: int, taken: list[int] | None = None) -> Iterator[Step]:
    """Yield steps over the same rows and note which were asked for."""
    for number in range(1, count + 1):
        if taken is not None:
            taken.append(number)
        yield Step(number, number / 4, (to_batch(CORPUS, [0, 1]), to_batch(CORPUS, [2, 3])))


def deliver(steps: Iterator[Step]) -> Iterator[_Delivery]:
    """Hand steps over without a device."""
    for step in steps:
        yield _Delivery(step)


def numbers_of(deliveries: Iterator[_Delivery]) -> list[int]:
    """Return the steps that were handed over."""
    return [delivery.step.number for delivery in deliveries if delivery.step is not None]


def feeders() -> list[threading.Thread]:
    """Return the threads that feed."""
    return [thread for thread in threading.enumerate() if thread.name == "attune-feed"]


def test_on_a_cpu_a_step_is_built_when_it_is_asked_for() -> None:
    """Nothing is prepared in vain, and no thread is started."""
    taken: list[int] = []
    fed = ahead(make_steps(9, taken), torch.device("cpu"))
    assert [next(fed).number, next(fed).number] == [1, 2]
    assert taken == [1, 2]
    assert not feeders()


def test_all_steps_come_in_order() -> None:
    """The thread hands over every step once, and is gone when there are no more."""
    assert numbers_of(in_background(lambda: deliver(make_steps(25)), 2)) == list(range(1, 26))
    assert not feeders()


@pytest.mark.parametrize("depth", [1, 3])
def test_at_most_some_steps_are_ahead(depth: int) -> None:
    """While one step is worked on, `depth` wait in the queue and one more in the thread's hands."""
    taken: list[int] = []
    fed = in_background(lambda: deliver(make_steps(50, taken)), depth)
    next(fed)
    deadline = time.monotonic() + 20
    while len(taken) < depth + 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(taken) == depth + 2
    fed.close()


def test_a_stop_ends_the_thread() -> None:
    """Closing in the middle of a run waits for the thread, also when the queue is full and a step in its hands."""
    fed = in_background(lambda: deliver(make_steps(10**9)), 2)
    assert numbers_of(next(fed) for _ in range(3)) == [1, 2, 3]
    assert len(feeders()) == 1
    fed.close()
    assert not feeders()


def test_an_error_comes_out_where_its_step_would_have() -> None:
    """The steps before it are handed over first; the error is the same object, and the thread has ended."""
    error = DataError("rows.jsonl:3: gone")

    def broken() -> Iterator[Step]:
        yield from make_steps(3)
        raise error

    fed = in_background(lambda: deliver(broken()), 2)
    assert numbers_of(next(fed) for _ in range(3)) == [1, 2, 3]
    with pytest.raises(DataError) as caught:
        next(fed)
    assert caught.value is error
    assert not feeders()


def test_an_error_of_the_consumer_ends_the_thread() -> None:
    """A training that fails leaves nothing running."""

    def consume() -> None:
        for delivery in in_background(lambda: deliver(make_steps(100)), 2):
            if delivery.step is not None and delivery.step.number == 2:
                raise ValueError

    with pytest.raises(ValueError):
        consume()
    assert not feeders()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_batches_arrive_whole() -> None:
    """Every tensor of every step is on the device with its values, and the counts were made before it moved."""
    device = torch.device("cuda")
    plain = list(make_steps(20))
    for step, wanted in zip(ahead(iter(plain), device), plain, strict=True):
        assert step.counts == Counts.of(wanted.batches)
        for batch, other in zip(step.batches, wanted.batches, strict=True):
            for name in ("tokens", "positions", "targets", "q_offsets", "kv_offsets"):
                mine: Any = getattr(batch, name)
                assert mine.is_cuda
                assert torch.equal(mine.cpu(), getattr(other, name))
    assert not feeders()
