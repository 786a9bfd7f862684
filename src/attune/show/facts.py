"""What a run folder says, read with patience: a missing or damaged file becomes a sentence, never an exception."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import yaml

Record = dict[str, Any]

_ABSENT = {
    "manifest.json": "which model, data and machine this was",
    "config.yaml": "the settings",
    "ledger.jsonl": "where each input row went",
    "metrics.jsonl": "the curves",
    "result.json": "how the run ended",
}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One measured comparison: the `eval` document and its rows, in file order."""

    name: str
    document: Record
    rows: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything the report shows, as it was recorded; `problems` are sentences about what is missing or damaged."""

    name: str
    folder: str  # as it is typed in a command
    has_checkpoint: bool
    config: Record  # dotted key -> value
    manifest: Record
    result: Record
    ledger: Record
    steps: tuple[Record, ...]  # one per step, in order
    valids: tuple[Record, ...]
    events: tuple[Record, ...]
    samples: tuple[Record, ...]
    preview: tuple[Record, ...]
    findings: tuple[Record, ...]
    evals: tuple[Evaluation, ...]  # newest first
    problems: tuple[str, ...]
    probes: tuple[Record, ...] = ()  # what the guards measured, one per validation
    alarms: tuple[Record, ...] = ()  # in the order in which they were raised
    row_losses: tuple[Record, ...] = ()  # of the validation rows, one record per validation
    breakdowns: tuple[Record, ...] = ()  # the validation loss by source, turn, position and length
    extremes: Record = field(default_factory=dict)  # worst and best rows of the last validation
    batches: tuple[Record, ...] = ()  # the rows of steps that an alarm names

    @property
    def base(self) -> Record | None:
        """The validation of the model before training."""
        return next((record for record in self.valids if record["step"] == 0), None)

    @property
    def best(self) -> Record | None:
        """The validation of the step that was kept: what an ended run says, else what its metric would choose.

        A run that has not ended does not know yet, and the model before training is never what is kept.
        """
        tuned = [record for record in self.valids if record["step"] > 0]
        chosen = self.result.get("best_step") if self.status != "running" else None
        found = [record for record in tuned if record["step"] == chosen]
        scored = [(score, record) for record in tuned if (score := self.score(record)) is not None]
        if found or not scored:
            return found[0] if found else None
        return (min if self.metric == "val_loss" else max)(scored, key=lambda pair: pair[0])[1]

    @property
    def metric(self) -> str:
        """What chooses the step that is kept."""
        known = str(self.config.get("early_stop.metric", "val_loss"))
        return "val_loss" if known == "auto" else known

    def score(self, valid: Record) -> float | None:
        """Return what the choosing metric says of a validation; task metrics stand in the probe of its step."""
        return number(valid.get(self.metric, mapping(self.probe(valid["step"]).get("scores")).get(self.metric)))

    def probe(self, step: int) -> Record:
        """Return what the guards measured at a step; nothing if they did not."""
        return next((record for record in self.probes if record["step"] == step), {})

    @property
    def status(self) -> str:
        """done, stopped, failed or running; `running` is also what a killed run leaves behind."""
        return str(self.result.get("status", "running"))

    @property
    def last_step(self) -> int:
        """The last step that was recorded."""
        return int(self.steps[-1]["step"]) if self.steps else 0


def number(value: Any) -> float | None:
    """Return `value` if it is a finite number; None for NaN (which the run folder holds as text) and the rest."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if value - value == 0 else None


def read_facts(run: Path) -> Facts:
    """Return what the run folder `run` holds. Files that are missing or damaged are named in `problems`."""
    problems: list[str] = []
    metrics = _read_lines(run, "metrics.jsonl", problems)
    manifest = _read_object(run, "manifest.json", problems)
    ledger = _read_lines(run, "ledger.jsonl", problems, limit=1)
    result = _read_object(run, "result.json", problems)
    return Facts(
        name=run.resolve().name,
        folder=_typed(run),
        has_checkpoint=any(run.glob("checkpoints/step-*")),
        config=read_config(run, problems),
        manifest=manifest,
        result=result,
        ledger=mapping(ledger[0].get("summary")) if ledger else {},
        steps=_last_of_each_step(metrics, "loss"),
        valids=_last_of_each_step(metrics, "val_loss"),
        events=tuple(_read_lines(run, "events.jsonl", problems)),
        samples=tuple(_read_lines(run, "samples.jsonl", problems)),
        preview=tuple(_read_lines(run, "preview.jsonl", problems)),
        findings=_read_findings(run, problems),
        evals=_read_evals(run, problems),
        probes=_last_of_each_step(metrics, "probe_loss"),
        alarms=_read_alarms(run, result, problems),
        row_losses=_last_of_each_step(_read_lines(run, "rows.jsonl", problems), "val_row_loss"),
        breakdowns=_last_of_each_step(_read_lines(run, "breakdown.jsonl", problems), "parts"),
        extremes=_read_object(run, "extremes.json", problems),
        batches=_last_of_each_step(_read_lines(run, "batches.jsonl", problems), "rows"),
        problems=tuple(problems),
    )


def _read_alarms(run: Path, result: Record, problems: list[str]) -> tuple[Record, ...]:
    """Return the alarms as they were raised; a run without their file has them in its result only."""
    raised = _read_lines(run, "alarms.jsonl", problems) or records_of(result.get("alarms"))
    return tuple(alarm for alarm in raised if isinstance(alarm.get("step"), int))


def records_of(value: Any) -> list[Record]:
    """Return the tables of a list; an empty list for anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _typed(run: Path) -> str:
    """Return the folder as one would type it: relative to the working folder where possible, quoted where needed."""
    where = run.resolve()
    here = Path.cwd()
    return shlex.quote(str(where.relative_to(here)) if where.is_relative_to(here) and where != here else str(run))


def mapping(value: Any) -> Record:
    """Return `value` if it is a table, else an empty one."""
    return dict(value) if isinstance(value, Mapping) else {}


def _say_absent(name: str, problems: list[str]) -> None:
    if name in _ABSENT:
        problems.append(f"{name} is missing, so {_ABSENT[name]} cannot be shown.")


def _read_json(run: Path, name: str, problems: list[str]) -> Any:
    path = run / name
    if not path.is_file():
        _say_absent(name, problems)
        return None
    try:
        return orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        problems.append(f"{name} is damaged ({error}) and was left out.")
        return None


def _read_object(run: Path, name: str, problems: list[str]) -> Record:
    return mapping(_read_json(run, name, problems))


def _read_findings(run: Path, problems: list[str]) -> tuple[Record, ...]:
    return tuple(records_of(_read_json(run, "findings.json", problems)))


def _read_lines(run: Path, name: str, problems: list[str], limit: int | None = None) -> list[Record]:
    """Return the records of a .jsonl file. A last line that a crash cut off is passed over; others are counted."""
    path = run / name
    if not path.is_file():
        _say_absent(name, problems)
        return []
    records: list[Record] = []
    damaged: list[int] = []
    line_number = 0
    with path.open("rb") as file:
        for line_number, line in enumerate(file, 1):
            if limit is not None and len(records) >= limit:
                break
            if not line.strip():
                continue
            try:
                value = orjson.loads(line)
            except orjson.JSONDecodeError:
                value = None
            if isinstance(value, dict):
                records.append(value)
            elif line.endswith(b"\n"):
                damaged.append(line_number)
    if damaged:
        places = ", ".join(str(place) for place in damaged[:3])
        problems.append(f"{name}: {len(damaged)} damaged line(s) were left out (first: line {places}).")
    return records


def read_config(run: Path, problems: list[str]) -> Record:
    """Return the settings of a run under dotted keys; what is missing or damaged is told in `problems`."""
    path = run / "config.yaml"
    if not path.is_file():
        _say_absent("config.yaml", problems)
        return {}
    try:
        return _flatten(mapping(yaml.safe_load(path.read_text("utf-8", errors="replace"))))
    except yaml.YAMLError as error:
        problems.append(f"config.yaml is damaged ({str(error).splitlines()[0]}) and was left out.")
        return {}


def _flatten(tree: Record, prefix: str = "") -> Record:
    """Return nested settings under dotted keys; an empty table keeps its own line."""
    flat: Record = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _last_of_each_step(records: list[Record], key: str) -> tuple[Record, ...]:
    """Return the records that hold `key`, one per step in order: a resumed run may have written a step twice."""
    by_step = {record["step"]: record for record in records if key in record and isinstance(record.get("step"), int)}
    return tuple(by_step[step] for step in sorted(by_step))


def _read_evals(run: Path, problems: list[str]) -> tuple[Evaluation, ...]:
    """Return the evaluations, newest first."""
    found = []
    for path in sorted(run.glob("eval/*.json")):
        document = _read_object(run, f"eval/{path.name}", problems)
        if document:
            rows = _read_lines(run, f"eval/{path.stem}.jsonl", problems)
            found.append(Evaluation(str(document.get("name", path.stem)), document, tuple(rows)))
    return tuple(sorted(found, key=lambda one: str(one.document.get("created", "")), reverse=True))
