"""The report of a run is written while it goes on, at each validation, and when it ends, however it ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

Listener = Callable[[str, Any], None]

PAUSE_S = 10.0  # between two reports of a run that goes on
SHARE = 0.02  # of the time that writing may take


class ReportAtEnd:
    """Stands between a run and its listener: hears which folder the run is in and keeps its report there current.

    `path` is the report once the run has ended; a run that failed before it had a folder gets none. A report that
    cannot be written is a note to the listener and never what stops a run.
    """

    def __init__(self, listener: Listener | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._listener = listener
        self._clock = clock
        self._run: Path | None = None
        self._not_before = 0.0
        self._written: tuple[tuple[str, int, int], ...] = ()  # the files as they were when the report was last written
        self._told = ""
        self.path: Path | None = None

    def __enter__(self) -> Self:
        return self

    def __call__(self, kind: str, payload: Any) -> None:
        """Pass an event on; from `plan` on, the run has a folder, and at `recorded` a validation is in its files."""
        if self._listener is not None:
            self._listener(kind, payload)
        if kind == "plan":
            self._run = Path(payload["run"])
            self._not_before = self._clock()
        elif kind == "recorded" and self._clock() >= self._not_before:
            self._write()

    @property
    def line(self) -> str:
        """The line that says where the report is."""
        return f"report    {self.path or 'was not written, as the note above says'}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.path = self._write()

    def _write(self) -> Path | None:
        """Write the report if the run's files changed since the last one; return it, or None if there is none."""
        if self._run is None:
            return None
        try:
            started, files = self._clock(), _files(self._run)
            if files != self._written:
                from attune.show.report import write_report

                write_report(self._run)
                self._written = files
            self._not_before = self._clock() + max(PAUSE_S, (self._clock() - started) / SHARE)
            return self._run / "report.html"
        except Exception as error:  # whatever a page trips over: the run is worth more than its page
            self._tell(f"{self._run}/report.html was not written: {error}. Later: attune report {self._run}")
            return None

    def _tell(self, text: str) -> None:
        """Tell the listener once."""
        if self._listener is not None and text != self._told:
            self._listener("note", text)
        self._told = text


def _files(run: Path) -> tuple[tuple[str, int, int], ...]:
    """Return name, size and time of every file that a report is made of."""
    found = [path for path in (*run.glob("*.json*"), *run.glob("*.yaml"), *run.glob("eval/*.json*")) if path.is_file()]
    states = [(str(path), path.stat()) for path in sorted(found)]
    return tuple((name, state.st_size, state.st_mtime_ns) for name, state in states)
