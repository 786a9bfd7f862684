"""The steps' way to the device: built, pinned and copied in the background while the device computes the one before."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, fields, replace

import torch

from attune.data.batch import on_device
from attune.train.loop import Step
from attune.train.metrics import Counts

_PATIENCE_S = 0.05  # between two looks at whether the other side is gone


@dataclass(frozen=True, slots=True)
class _Delivery:
    """What the thread hands over: a step and when its copies are done, an error, or the end (neither)."""

    step: Step | None = None
    copied: torch.cuda.Event | None = None
    error: BaseException | None = None


def ahead(steps: Iterable[Step], device: torch.device, depth: int = 2) -> Generator[Step, None, None]:
    """Yield the same steps with their batches on `device`; on CUDA up to `depth` of them are prepared ahead.

    On a CPU every step is built when it is asked for. An error in `steps` comes out where its step would have. Closing
    ends the thread; what it prepared in vain is built again from (seed, step) when the run is resumed.
    """
    if device.type == "cpu":
        yield from steps
        return
    device = torch.empty(0, device=device).device  # with its number
    stream = torch.cuda.Stream(device)
    for delivery in in_background(lambda: _deliveries(steps, device, stream), depth):
        assert delivery.step is not None
        if delivery.copied is not None:
            torch.cuda.current_stream(device).wait_event(delivery.copied)
        _use_on(delivery.step, torch.cuda.current_stream(device))
        yield delivery.step


def in_background(make: Callable[[], Iterator[_Delivery]], depth: int) -> Generator[_Delivery, None, None]:
    """Yield what the iterator of `make()` yields, which runs in a thread of its own, at most `depth` ahead.

    The error that ends it is raised here. However this generator ends, the thread has ended before it.
    """
    ready: queue.Queue[_Delivery] = queue.Queue(maxsize=depth)
    stopped = threading.Event()
    thread = threading.Thread(target=_run, args=(make, ready, stopped), name="attune-feed", daemon=True)
    thread.start()
    try:
        while True:
            delivery = ready.get()
            if delivery.error is not None:
                raise delivery.error
            if delivery.step is None:
                return
            yield delivery
    finally:
        stopped.set()
        thread.join()


def _run(make: Callable[[], Iterator[_Delivery]], ready: queue.Queue[_Delivery], stopped: threading.Event) -> None:
    """Put deliveries into the queue until there are no more or nobody wants them."""
    last = _Delivery()
    try:
        for delivery in make():
            if not _put(ready, delivery, stopped):
                return
    except BaseException as error:
        last = _Delivery(error=error)
    _put(ready, last, stopped)


def _put(ready: queue.Queue[_Delivery], delivery: _Delivery, stopped: threading.Event) -> bool:
    """Wait for a place in the queue; return whether it was found before the other side stopped."""
    while not stopped.is_set():
        try:
            ready.put(delivery, timeout=_PATIENCE_S)
            return True
        except queue.Full:
            continue
    return False


def _deliveries(steps: Iterable[Step], device: torch.device, stream: torch.cuda.Stream) -> Iterator[_Delivery]:
    """Yield each step with its batches copied to the device on a stream of their own."""
    torch.cuda.set_device(device)  # a thread starts on the first device
    for step in steps:
        counts = step.counts or Counts.of(step.batches)  # here, where counting waits for nothing
        with torch.cuda.stream(stream):
            batches = tuple(on_device(batch, device) for batch in step.batches)
            copied = stream.record_event()
        yield _Delivery(replace(step, batches=batches, counts=counts), copied)


def _use_on(step: Step, stream: torch.cuda.Stream) -> None:
    """Tell the allocator that a step's tensors are used on `stream`, so that their memory is not taken too early."""
    for batch in step.batches:
        for field in fields(batch):
            value = getattr(batch, field.name)
            if isinstance(value, torch.Tensor) and value.is_cuda:
                value.record_stream(stream)
