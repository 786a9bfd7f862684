"""Stopping in good order: a signal sets a flag, the running step is finished and saved, then the run ends.

Guards that were asked to stop a run are the other reason.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from attune.errors import ConfigError
from attune.evals.guards.catalog import GUARDS

if TYPE_CHECKING:
    from typing_extensions import Self

EXIT_CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}


class StopRequest:
    """While open, SIGTERM and the first Ctrl-C only set `signal`; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in EXIT_CODES:
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)


def stopping_guards(wishes: Iterable[str]) -> frozenset[str]:
    """Return the names of the alarms that stop a run, from ids (G6) or names.

    Raises: ConfigError for an unknown one.
    """
    found: set[str] = set()
    for wish in wishes:
        names = {guard.name for guard in GUARDS.values() if wish.lower() in (guard.id.lower(), guard.name)}
        if not names:
            known = ", ".join(f"{guard.id} {guard.name}" for guard in GUARDS.values())
            raise ConfigError(f'guards.stop_on: "{wish}" is no guard. There are: {known}.')
        found |= names
    return frozenset(found)
