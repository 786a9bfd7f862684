"""What gpu.py reads off a training, the same on every side: seconds of each step, memory, how long the GPU waited.

Needs torch alone, so that peers can use it, too.
"""

from __future__ import annotations

import gc
import resource
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch._C._autograd import DeviceType  # under which torch.profiler itself knows it

GIB = 2**30
MOST_KERNELS = 12  # named in the result


class Watch:
    """Told at the end of every step: takes the time, then profiles the steps after the timed ones.

    Make it when the model is built and nothing else: the first step's time counts from here, and so does the memory.
    """

    def __init__(self, device: torch.device, *, steps: int, profiled: int) -> None:
        self._cuda = device.type == "cuda"
        self._steps, self._profiled = steps, profiled if self._cuda else 0
        self._marks: list[Any] = []
        self._profiler: Any = None
        self._found: dict[str, Any] = {}
        gc.collect()
        if self._cuda:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        self._begin = time.perf_counter()

    @property
    def wanted(self) -> int:
        """How many steps are watched in all."""
        return self._steps + self._profiled

    def step_done(self) -> None:
        """Note that a step has ended; steps after the last wanted one are not looked at."""
        number = len(self._marks) + 1
        if number > self.wanted:
            return
        self._marks.append(self._mark())
        if number == 1:
            self._wait()
            self._found["first_step_s"] = time.perf_counter() - self._begin
        if number == self._steps:
            self._wait()
            self._found |= _memory(cuda=self._cuda)
            if self._profiled:
                self._profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
                self._profiler.start()
        elif number == self.wanted and self._profiler is not None:
            self._wait()
            self._profiler.stop()

    def result(self) -> dict[str, Any]:
        """Return all that was seen; seconds of each timed step but the first."""
        self._wait()
        pairs = pairwise(self._marks[: self._steps])
        seconds = [a.elapsed_time(b) / 1000 if self._cuda else b - a for a, b in pairs]
        return {"seconds": seconds, **self._found, **self._waits()}

    def _mark(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _wait(self) -> None:
        if self._cuda:
            torch.cuda.synchronize()

    def _waits(self) -> dict[str, Any]:
        """Return the GPU's idle share in the profiled steps, and the kernels that took most of their time."""
        if self._profiler is None:
            return {"idle_share": None, "kernels": []}
        spans: list[tuple[float, float]] = []
        times: Counter[str] = Counter()
        for event in self._profiler.events():
            if is_work(event):
                spans.append((event.time_range.start, event.time_range.end))
                times[event.name[:90]] += event.time_range.end - event.time_range.start
        total = sum(times.values()) or 1
        kernels = [[name, took / total] for name, took in times.most_common(MOST_KERNELS)]
        return {
            "idle_share": idle_share(spans, leave_out=1 / self._profiled),
            "kernels": kernels,
            "kernels_per_step": len(spans) / self._profiled,
        }


def is_work(event: Any) -> bool:
    """Whether a profiled event is work on the GPU, and not a copy to it that runs beside the work, or a label."""
    on_device = event.device_type == DeviceType.CUDA
    return on_device and not event.is_user_annotation and not event.name.startswith("Memcpy HtoD")


def idle_share(spans: Sequence[tuple[float, float]], *, leave_out: float = 0.0) -> float | None:
    """Return the share of the time from the first start to the last end in which nothing ran; None without spans.

    `leave_out`: the share of that time, at its beginning, that does not count: the profiler starts with an empty queue.
    """
    if not spans:
        return None
    ordered = sorted(spans)
    last = max(end for _, end in ordered)
    begin = ordered[0][0] + leave_out * (last - ordered[0][0])
    busy, until = 0.0, begin
    for start, end in ordered:
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return 1 - busy / (last - begin) if last > begin else 0.0


def _memory(*, cuda: bool) -> dict[str, float]:
    if cuda:
        return {
            "allocated_gib": torch.cuda.max_memory_allocated() / GIB,
            "reserved_gib": torch.cuda.max_memory_reserved() / GIB,
        }
    unit = 1 if sys.platform == "darwin" else 1024
    held = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB
    return {"allocated_gib": held, "reserved_gib": held}


def multiply_flops(device: torch.device, size: int = 8192, repeats: int = 30) -> float:
    """Return the operations per second of one matrix product in 16 bits, of random numbers; the median."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    cuda = device.type == "cuda"
    seconds: list[float] = []
    for number in range(repeats + 10):
        start = time.perf_counter()
        if cuda:
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            first.record()
        torch.mm(a, b, out=out)
        if cuda:
            last.record()
            last.synchronize()
        if number >= 10:
            seconds.append(first.elapsed_time(last) / 1000 if cuda else time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds)
