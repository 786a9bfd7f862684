"""Steps that are prepared while the device computes are the same steps, in order, and errors come where they belong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from attune.data.batch import to_batch
from attune.errors import DataError
from attune.train.feed import Feed, Step
from attune.train.metrics import Counts
from tests.tiny import make_corpus

CORPUS = make_corpus([5, 11, 3, 17])
CPU, META = torch.device("cpu"), torch.device("meta")  # meta: a device that is not the host, and everywhere


def make_steps(count: int, taken: list[int] | None = None) -> Iterator[Step]:
    """Yield steps over the same rows and note which were asked for."""
    for number in range(1, count + 1):
        if taken is not None:
            taken.append(number)
        yield Step(number, number / 4, (to_batch(CORPUS, [0, 1]), to_batch(CORPUS, [2, 3])))


def take_all(feed: Feed, *, prepares: bool) -> list[int]:
    """Return the numbers of all steps."""
    numbers = []
    while (step := feed.take()) is not None:
        numbers.append(step.number)
        if prepares:
            feed.prepare()
    return numbers


def test_on_a_cpu_a_step_is_built_when_it_is_taken() -> None:
    """Where the host computes, nothing is gained by preparing, and nothing is prepared in vain."""
    taken: list[int] = []
    feed = Feed(make_steps(9, taken), CPU)
    assert feed.take()
    feed.prepare()
    assert taken == [1]


@pytest.mark.parametrize("device", [CPU, META], ids=str)
@pytest.mark.parametrize("prepares", [True, False])
def test_all_steps_come_once_and_in_order(device: torch.device, prepares: bool, monkeypatch: Any) -> None:
    """Prepared or not, every step is taken once."""
    monkeypatch.setattr("attune.train.feed.on_device", lambda batch, device: batch)
    assert take_all(Feed(make_steps(7), device), prepares=prepares) == list(range(1, 8))


def test_one_step_is_prepared_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Preparing twice builds one step; it is the one that is taken next, counted before it moved."""
    monkeypatch.setattr("attune.train.feed.on_device", lambda batch, device: batch)
    taken: list[int] = []
    feed = Feed(make_steps(9, taken), META)
    feed.prepare()
    feed.prepare()
    assert taken == [1]
    step = feed.take()
    assert step is not None
    assert step.number == 1
    assert step.counts == Counts.of(step.batches)


def test_an_error_comes_out_where_its_step_would_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Preparing a step that cannot be built says nothing yet; taking it raises the same error."""
    monkeypatch.setattr("attune.train.feed.on_device", lambda batch, device: batch)
    error = DataError("rows.jsonl:3: gone")

    def broken() -> Iterator[Step]:
        yield from make_steps(1)
        raise error

    feed = Feed(broken(), META)
    assert feed.take()
    feed.prepare()
    with pytest.raises(DataError) as caught:
        feed.take()
    assert caught.value is error


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_batches_arrive_whole() -> None:
    """Every tensor of every step is on the device with its values."""
    feed = Feed(make_steps(20), torch.device("cuda"))
    for wanted in make_steps(20):
        feed.prepare()
        step = feed.take()
        assert step is not None
        for batch, other in zip(step.batches, wanted.batches, strict=True):
            for name in ("tokens", "positions", "targets", "q_offsets", "kv_offsets"):
                mine: Any = getattr(batch, name)
                assert mine.is_cuda
                assert torch.equal(mine.cpu(), getattr(other, name))
    assert feed.take() is None
