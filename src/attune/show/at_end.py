"""The report of a run is written when the run ends, however it ends."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from attune.errors import UserError

if TYPE_CHECKING:
    from typing_extensions import Self

Listener = Callable[[str, Any], None]


class ReportAtEnd:
    """Stands between a run and its listener: hears which folder the run is in, and on leaving writes its report there.

    `path` is the report once it is written; a run that failed before it had a folder gets none.
    """

    def __init__(self, listener: Listener | None = None) -> None:
        self._listener = listener
        self._run: Path | None = None
        self.path: Path | None = None

    def __enter__(self) -> Self:
        return self

    def __call__(self, kind: str, payload: Any) -> None:
        """Pass an event on; from `plan` on, the run has a folder."""
        if kind == "plan":
            self._run = Path(payload["run"])
        if self._listener is not None:
            self._listener(kind, payload)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._run is None or not (error is None or isinstance(error, UserError)):
            return
        from attune.show.report import write_report

        if error is None:
            self.path = write_report(self._run)
            return
        with suppress(Exception):  # what ended the run is what the reader must hear, not that its page failed too
            self.path = write_report(self._run)
