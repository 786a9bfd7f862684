"""Host memory as a store for activations: copied out while the device computes on, and back before they are needed."""

from __future__ import annotations

import weakref
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

IN_FLIGHT = 2  # tensors that may still lie on the device while they are copied out


@dataclass(eq=False)
class _Held:
    """One stored tensor: its copy in host memory, and its place on the device while it is on its way."""

    host: Tensor
    device: torch.device
    on_device: Tensor | None = None
    copied: torch.cuda.Event | None = None  # set when the last copy, out or back, is complete


class HostStore:
    """Keeps what autograd saves in (pinned) host memory, for tensors that come back in the opposite order.

    On CUDA copies run on a stream of their own: a tensor leaves the device once its copy is complete, which the
    computing stream waits for only when more than IN_FLIGHT are on their way; and when one comes back, the one before
    it is already fetched. No memory is given back while a copy still reads or writes it.
    """

    def __init__(self) -> None:
        self._stack: list[weakref.ref[_Held]] = []  # weak: a graph that is dropped takes its tensors along
        self._leaving: deque[weakref.ref[_Held]] = deque()
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self.stored = 0  # tensors so far

    def hooks(self) -> saved_tensors_hooks:
        """Return the context in which whatever autograd saves goes into this store."""
        return saved_tensors_hooks(self._pack, self._unpack)

    def _pack(self, tensor: Tensor) -> Any:
        if not tensor.is_floating_point() or not tensor.numel() or isinstance(tensor, torch.nn.Parameter):
            return tensor  # torch saves an empty one of its own
        self.stored += 1
        source = tensor.detach()
        held = _Held(torch.empty(0), tensor.device)
        if source.is_cuda:
            self._send(held, source.contiguous())
        else:
            held.host = source.clone()
        self._stack.append(weakref.ref(held))
        return held

    def _unpack(self, held: Any) -> Tensor:
        if isinstance(held, Tensor):
            return held
        while self._stack and self._stack.pop()() is not held:
            pass
        if held.device.type != "cuda":
            return held.host  # type: ignore[no-any-return]
        tensor = self._take(held)
        before = self._top()
        if before is not None and before.on_device is None:
            self._fetch(before)
        return tensor

    def _top(self) -> _Held | None:
        """Return the last tensor stored that is still wanted."""
        while self._stack:
            held = self._stack[-1]()
            if held is not None:
                return held
            self._stack.pop()
        return None

    def _send(self, held: _Held, source: Tensor) -> None:
        """Begin to copy a tensor out, and let go of the oldest one on its way if there are too many."""
        computing, copying = torch.cuda.current_stream(held.device), self._stream(held.device)
        if len(self._leaving) >= IN_FLIGHT and (oldest := self._leaving.popleft()()) is not None:
            self._let_go(oldest)
        held.host = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
        held.on_device = source
        copying.wait_stream(computing)
        with torch.cuda.stream(copying):
            held.host.copy_(source, non_blocking=True)
            held.copied = copying.record_event()
        self._leaving.append(weakref.ref(held))

    def _fetch(self, held: _Held) -> None:
        """Begin to copy a tensor back. Its memory belongs to the computing stream, which may have used it just now."""
        computing, copying = torch.cuda.current_stream(held.device), self._stream(held.device)
        held.on_device = torch.empty(held.host.shape, dtype=held.host.dtype, device=held.device)
        copying.wait_stream(computing)
        with torch.cuda.stream(copying):
            held.on_device.copy_(held.host, non_blocking=True)
            held.copied = copying.record_event()

    def _take(self, held: _Held) -> Tensor:
        """Return a tensor on its device, after its copies."""
        if held.on_device is None:
            self._fetch(held)
        tensor = held.on_device
        assert tensor is not None, "it was fetched just now"
        self._let_go(held)
        return tensor

    def _let_go(self, held: _Held) -> None:
        """Forget a tensor's place on the device; what is computed from now on waits for the copy that uses it."""
        if held.on_device is not None and held.copied is not None:
            torch.cuda.current_stream(held.device).wait_event(held.copied)
        held.on_device = None

    def _stream(self, device: torch.device) -> torch.cuda.Stream:
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        return self._streams[device]
