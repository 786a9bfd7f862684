"""The Python face: what the command line does, as typed functions; nothing heavy is imported before one is called."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attune.config import Config
    from attune.config_file import load_config
    from attune.train.run import Run

__version__ = "0.1.0"
__all__ = ["Config", "Run", "__version__", "check", "evaluate", "finetune", "load_config", "resume"]

Listener = Callable[[str, Any], None]
_LAZY = {"Config": "attune.config", "Run": "attune.train.run", "load_config": "attune.config_file"}


def __getattr__(name: str) -> Any:
    """Import what is asked for by name when it is asked for."""
    from importlib import import_module

    if name not in _LAZY:
        raise AttributeError(f"module 'attune' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def finetune(
    data_or_config: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Config,
    *,
    settings: Mapping[str, Any] | None = None,
    on_event: Listener | None = None,
    **groups: Any,
) -> Run:
    """Tune a model on a file of rows, or as a config file or Config says; return the run: its folder and result.

    Settings come as keywords (model="folder", train={"steps": 50}) or by dotted name ({"train.steps": 50}); the
    latter win. `on_event(kind, payload)` hears what happens; the report is written at the end.
    Raises attune.errors.UserError, as the command line does.
    """
    from attune.config_file import make_config
    from attune.show.at_end import ReportAtEnd
    from attune.train.run import finetune as run

    config = make_config(data_or_config, groups, settings or {})
    with ReportAtEnd(on_event) as listener:
        return run(config, command="attune.finetune(...)", on_event=listener)


def resume(run: str | os.PathLike[str], *, on_event: Listener | None = None) -> Run:
    """Go on with a stopped or killed run. Raises attune.errors.UserError, as the command line does."""
    from attune.show.at_end import ReportAtEnd
    from attune.train.run import resume as go_on

    with ReportAtEnd(on_event) as listener:
        return go_on(Path(run), on_event=listener)


def check(
    data_or_config: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Config,
    *,
    against: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    **groups: Any,
) -> dict[str, Any]:
    """Return whether rows are fit to train on: the JSON document of `attune check`. With model="folder" also tokens.

    `against`: a file of real prompts that the training prompts should be like. Settings as in finetune().
    Raises attune.errors.DataError for a file that cannot be used at all.
    """
    from attune.config_file import make_config
    from attune.train.check import check_rows

    config = make_config(data_or_config, groups, settings or {})
    return dict(check_rows(config, against="" if against is None else os.fspath(against)).document)


def evaluate(
    run: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    schema: str | os.PathLike[str] | None = None,
    max_new_tokens: int | None = None,
    limit: int | None = None,
    name: str = "eval",
    seed: int = 0,
    on_event: Listener | None = None,
) -> dict[str, Any]:
    """Compare a run's tuned model with its base on the same rows; return the JSON document of `attune eval`.

    Without `data`, the run's held-out rows are used. Raises attune.errors.UserError, as the command line does.
    """
    from attune.evals.evaluate import evaluate as measure

    return measure(
        Path(run),
        data=None if data is None else os.fspath(data),
        schema=None if schema is None else os.fspath(schema),
        max_new_tokens=max_new_tokens,
        limit=limit,
        name=name,
        seed=seed,
        on_event=on_event,
    )
