"""The runs that are watched: which there are, what each has come to, and in which settings they differ."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from attune.record import RunFolder
from attune.show.facts import Record, mapping, number, read_config
from attune.show.live_tail import peek, read_news, readable
from attune.show.words import SEVERITIES

FILES = {name: f"{name}.jsonl" for name in ("metrics", "alarms", "events", "samples")}
SERIES = ("loss", "accuracy", "learning_rate", "grad_norm", "tokens_per_s", "time")
RECENT = 50  # steps that the time left is reckoned from
SILENT_S = 120.0  # a running run is silent after this long without a word, or after 20 of its steps


class WatchedRun:
    """One run read as it grows: its curves, validations and alarms so far."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.steps: dict[int, tuple[Any, ...]] = {}  # step -> values of SERIES
        self.valids: dict[int, Record] = {}
        self.alarms: list[Record] = []
        self._at: dict[str, tuple[int, str]] = {}

    def update(self) -> None:
        """Read what the run wrote since the last time."""
        for record in self._news("metrics", self.steps, self.valids):
            step = record.get("step")
            if isinstance(step, int) and "loss" in record:
                self.steps[step] = tuple(record.get(key) for key in SERIES)
            elif isinstance(step, int) and "val_loss" in record:
                self.valids[step] = record
        self.alarms += self._news("alarms", self.alarms)

    def series(self, key: str) -> list[float]:
        """Return the finite values of a curve in the order of its steps: a key of SERIES or of a validation."""
        if key not in SERIES:
            found: list[Any] = [self.valids[step].get(key) for step in sorted(self.valids)]
        else:
            place = SERIES.index(key)
            found = [self.steps[step][place] for step in sorted(self.steps)]
        return [value for value in map(number, found) if value is not None]

    def describe(self, *, now: float | None = None) -> Record:
        """Return what the run has come to; `seconds_left` is None unless it runs and its pace is known.

        `now`: seconds since the epoch, as of the files' times.
        """
        result = mapping(_read(self.folder / "result.json"))
        last = max(self.steps, default=0)
        status = str(result.get("status", "running"))
        total = number(result.get("total_steps"))
        pace = self._pace()
        quiet = self._quiet(time.time() if now is None else now)
        is_running = status == "running"
        return {
            "name": self.name,
            "folder": str(self.folder),
            "status": status,
            "silent_s": quiet if is_running and quiet > max(SILENT_S, 20 * (pace or 0)) else None,
            "stopped_early": bool(result.get("stopped_early")),
            "step": last,
            "total_steps": None if total is None else int(total),
            "seconds": self._value(last, "time"),
            "seconds_left": pace * (total - last) if is_running and pace and total else None,
            "loss": self._value(last, "loss"),
            "tokens_per_s": self._value(last, "tokens_per_s"),
            **self._validation(),
            "alarms": {
                severity: sum(alarm.get("severity") == severity for alarm in self.alarms) for severity in SEVERITIES
            },
            "files": {name: peek(self.folder / file) for name, file in FILES.items()},
        }

    def _validation(self) -> Record:
        """Return the losses before training, at the last validation and at the lowest one."""
        losses = {step: number(self.valids[step].get("val_loss")) for step in sorted(self.valids)}
        tuned = {step: loss for step, loss in losses.items() if step > 0 and loss is not None}
        lowest = min(tuned, key=lambda step: tuned[step], default=None)
        return {
            "base_loss": losses.get(0),
            "val_loss": tuned[max(tuned)] if tuned else None,
            "lowest_loss": None if lowest is None else tuned[lowest],
            "lowest_step": lowest,
        }

    def _value(self, step: int, key: str) -> float | None:
        return number(self.steps[step][SERIES.index(key)]) if step in self.steps else None

    def _pace(self) -> float | None:
        """Return the seconds of work that a step takes of late, with its validations."""
        recent = sorted(self.steps)[-RECENT:]
        if len(recent) < 2:
            return None
        first, last = self._value(recent[0], "time"), self._value(recent[-1], "time")
        return None if first is None or last is None else max(0.0, last - first) / (recent[-1] - recent[0])

    def _quiet(self, now: float) -> float:
        """Return the seconds since the run last wrote about itself."""
        times = [path.stat().st_mtime for file in FILES.values() if (path := self.folder / file).is_file()]
        return max(0.0, now - max(times)) if times else 0.0

    def _news(self, name: str, *kept: dict[int, Any] | list[Record]) -> list[Record]:
        """Return the new records of a file; what was `kept` of one that was replaced is forgotten."""
        found: list[Record] = []
        more = True
        while more:
            news = read_news(self.folder / FILES[name], *self._at.get(name, (0, "")))
            if news.restarted:
                found.clear()
                for one in kept:
                    one.clear()
            found += news.records
            self._at[name] = (news.offset, news.mark)
            more = news.more
        return found


class Runs:
    """The runs in the given folders, each a run or a folder of runs, under names that stay theirs."""

    def __init__(self, targets: Sequence[str]) -> None:
        """Raise ConfigError, with the runs nearby, for a target that holds no run."""
        self._targets = [Path(target) for target in targets]
        self._lock = threading.Lock()
        self._known: dict[Path, WatchedRun] = {}
        for target in self._targets:
            if not _runs_of(target):
                RunFolder.open(target)
        self.update()

    def update(self) -> list[WatchedRun]:
        """Return the runs that are there now, in the order in which they were first seen, read up to this moment."""
        with self._lock:
            there = list(dict.fromkeys(folder for target in self._targets for folder in _runs_of(target)))
            for folder in there:
                if folder not in self._known:
                    self._known[folder] = WatchedRun(self._new_name(folder), folder)
            found = [run for folder, run in self._known.items() if folder in set(there)]
            for run in found:
                run.update()
            return found

    def find(self, name: str) -> WatchedRun | None:
        """Return the run of this name."""
        with self._lock:
            return next((run for run in self._known.values() if run.name == name), None)

    def _new_name(self, folder: Path) -> str:
        """Return the folder's name, numbered where an earlier run has it already."""
        taken = {run.name for run in self._known.values()}
        name, number_of_it = folder.name, 1
        while name in taken:
            number_of_it += 1
            name = f"{folder.name} ({number_of_it})"
        return name


def file_of(run: WatchedRun, kind: str) -> Path | None:
    """Return the file of a kind of records; None if it stands outside the run's own folder, by way of a link."""
    path = run.folder / FILES[kind]
    return path if path.resolve().parent == run.folder else None


def compare_settings(runs: Sequence[WatchedRun]) -> list[Record]:
    """Return the settings in which the runs differ, with the value in each as text; None where it has none."""
    configs = [_config(run.folder, peek(run.folder / "config.yaml")) for run in runs]
    names = dict.fromkeys(name for config in configs for name in config if name != "out")
    rows = [{"name": name, "values": [_setting(config, name) for config in configs]} for name in names]
    return [readable(row) for row in rows if len(set(row["values"])) > 1]


def _runs_of(target: Path) -> list[Path]:
    """Return the run at `target`, or those right below it by the time they were made."""
    if (target / "manifest.json").is_file():
        return [target.resolve()]
    found = [manifest.parent.resolve() for manifest in target.glob("*/manifest.json")]
    return sorted(found, key=lambda folder: (_created(folder), folder.name))


@lru_cache(maxsize=1024)
def _created(folder: Path) -> str:
    return str(mapping(_read(folder / "manifest.json")).get("created", ""))


@lru_cache(maxsize=256)
def _config(folder: Path, _written: tuple[str, int]) -> Mapping[str, Any]:
    """Return the settings of a run; they are read again when their file was written again."""
    return read_config(folder, [])


def _setting(config: Mapping[str, Any], name: str) -> str | None:
    if name not in config:
        return None
    value = config[name]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _read(path: Path) -> Any:
    """Return a file as JSON, or None if it is missing or damaged."""
    try:
        return orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
