"""The trackers of a run: every recorded number and alarm, sent on to those that log.to names.

The run folder stays the truth: a tracker that fails is dropped with a note, and training goes on.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from operator import attrgetter
from typing import Any

from attune.config import Config
from attune.config_words import setting_fields
from attune.errors import CheckpointError, ConfigError
from attune.record import RunFolder
from attune.train.sinks import SINKS, Setting, Sink, Subject
from attune.types import Alarm, ProbeRecord, StepRecord, ValidRecord

NAMES = "trackers.json"  # what each tracker calls the run, so that a resumed run goes on there
_MADE = ("tensorboard", "wandb", "mlflow.db", "mlruns", NAMES)  # in the run folder, by the trackers
_PREFIXES = {StepRecord: ("train/", ""), ValidRecord: ("val/", "val_"), ProbeRecord: ("guards/", "")}


def check_trackers(config: Config) -> None:
    """Raise ConfigError when a tracker of log.to is not installed; nothing is imported."""
    for name in config.log.to:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # a mere folder of that name, as wandb leaves one, has no origin
            raise ConfigError(
                f'log.to: {name} is not installed: pip install "attune-sft[{name}]", or leave it out of log.to.'
            )


class Trackers:
    """The open trackers of one run, none at all for most."""

    def __init__(self, sinks: Mapping[str, Sink], note: Callable[[str], None]) -> None:
        self._sinks = dict(sinks)
        self._note = note

    def record(self, record: StepRecord | ValidRecord | ProbeRecord) -> None:
        """Send the numbers of a record."""
        if self._sinks:
            values = numbers_of(record)
            self._tell_each(lambda sink: sink.log(values, record.step))

    def alarm(self, alarm: Alarm) -> None:
        """Send an alarm."""
        self._tell_each(lambda sink: sink.warn(alarm))

    def close(self, result: Mapping[str, Any]) -> None:
        """Send what is left and how the run ended: `status`, `steps` and `best_step` of `result`."""
        self._tell_each(lambda sink: sink.finish(result))
        self._sinks.clear()

    def _tell_each(self, act: Callable[[Sink], None]) -> None:
        for name, sink in list(self._sinks.items()):
            try:
                act(sink)
            except Exception as error:
                del self._sinks[name]
                self._note(
                    f"{name} failed and is told nothing more ({_first_line(error)}); the run goes on, "
                    "and its folder has every number."
                )


def open_trackers(
    config: Config, run: RunFolder, *, resumed: bool, tell: Callable[[str, Any], None] | None = None
) -> Trackers:
    """Open the trackers of log.to and say where each keeps its numbers; a resumed run goes on in the same ones.

    `tell` hears notes as `tell("note", text)`; they are recorded as events too.
    Raises ConfigError when one is not installed or cannot start; it leaves nothing in a new run's folder.
    """

    def note(text: str) -> None:
        run.event("note", text)
        if tell is not None:
            tell("note", text)

    check_trackers(config)
    names = _known_names(run) if resumed else {}
    settings = settings_of(config)
    sinks: dict[str, Sink] = {}
    for name in dict.fromkeys(config.log.to):
        try:
            sinks[name] = SINKS[name](Subject(run.path, settings, names.get(name, "")))
        except Exception as error:
            Trackers(sinks, lambda _: None).close({"status": "failed", "steps": 0, "best_step": 0})
            if not resumed:
                _clear(run)
            raise ConfigError(
                f"log.to: {name} cannot start: {_first_line(error)}\nMend that, or leave it out of log.to."
            ) from error
    if sinks:
        run.write_json(NAMES, {name: sink.known_as for name, sink in sinks.items()})
    for sink in sinks.values():
        note(sink.where)
    return Trackers(sinks, note)


def numbers_of(record: StepRecord | ValidRecord | ProbeRecord) -> dict[str, float]:
    """Return what a tracker shows of a record: train/loss, val/loss, guards/kl_task; scores stand among the guards."""
    prefix, cut = _PREFIXES[type(record)]
    values = asdict(record)
    values |= values.pop("scores", {})
    del values["step"]
    return {prefix + name.removeprefix(cut): float(v) for name, v in values.items() if isinstance(v, int | float)}


def settings_of(config: Config) -> dict[str, Setting]:
    """Return every setting by its dotted name; lists and tables as text."""
    values = {name: attrgetter(name)(config) for name in setting_fields()}
    return {name: value if isinstance(value, str | int | float) else str(value) for name, value in values.items()}


def _known_names(run: RunFolder) -> dict[str, str]:
    """Return what the trackers called the run before it stopped; nothing where it stopped before that was noted."""
    try:
        return dict(run.read_json(NAMES))
    except CheckpointError:
        return {}


def _clear(run: RunFolder) -> None:
    """Take away what trackers have begun for a run that does not start."""
    for name in _MADE:
        shutil.rmtree(run.path / name, ignore_errors=True)
        if (run.path / name).is_file():
            (run.path / name).unlink()


def _first_line(error: Exception) -> str:
    """Return the kind of an error and the first line of its text."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
