"""Where a verb speaks: progress and text for people, or with --json one document on stdout and the rest on stderr."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from contextlib import ExitStack, redirect_stdout
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Self

    from attune.show.console import Console


def next_line(*words: object) -> str:
    """Return the line that names the next command, as a shell takes it."""
    return f"next      {shlex.join(['attune', *map(str, words)])}"


def next_after_training(run: object, result: Mapping[str, Any]) -> str:
    """Return the next command after a run: its evaluation, or a talk when no rows were held out to ask."""
    return next_line("chat" if result["metrics"]["val_loss"] is None else "eval", run)


class Screen:
    """The output of one verb. While open with `json`, whatever a library prints lands on stderr."""

    def __init__(self, *, json: bool, progress: TextIO | None = None) -> None:
        from attune.show.console import Console

        self._json = json
        self._stdout = sys.stdout
        self._rank = int(os.environ.get("RANK", "0"))  # as torchrun sets it: one process of several speaks
        self.console: Console = Console(progress or (sys.stderr if json else sys.stdout), rank=self._rank)
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._open.enter_context(self.console)
        if self._json:
            self._open.enter_context(redirect_stdout(sys.stderr))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def finish(self, document: Any, lines: Iterable[str] = (), *, rows: Iterable[str] = ()) -> None:
        """Print the end: the document with --json, else the lines for people.

        `rows` come before them as they are, colours and all: nothing else in them may be what a terminal obeys.
        """
        from attune.record import json_text
        from attune.show.words import visible

        self.console.close()
        if self._rank != 0:
            return
        said = (*rows, *(visible(line) for line in lines))
        self._stdout.write(json_text(document) if self._json else "".join(f"{line}\n" for line in said))
        self._stdout.flush()
