"""What the guards said, the worst first, and the rows of the steps that they name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from attune.show.facts import Facts, Record
from attune.show.marks import spike_steps
from attune.show.words import SEVERITIES, alarm_name, place

PRESSING = 2  # alarms told at the top of the page


@dataclass(frozen=True, slots=True)
class Spike:
    """A step that an alarm names, with the rows that were in it."""

    step: int
    loss: Any
    grad_norm: Any
    rows: tuple[str, ...]


def sorted_alarms(facts: Facts) -> list[Record]:
    """Return the alarms, errors first and each severity by step; `called` is their name as a heading has it."""
    order = {severity: at for at, severity in enumerate(SEVERITIES)}
    known = [{**alarm, "called": _called(alarm), "rows": _places(alarm)} for alarm in facts.alarms]
    return sorted(known, key=lambda alarm: (order.get(str(alarm.get("severity")), len(order)), alarm["step"]))


def pressing_alarms(facts: Facts) -> list[Record]:
    """Return the errors that a reader must know before anything else, the last one of each guard."""
    errors = {alarm["called"]: alarm for alarm in sorted_alarms(facts) if alarm.get("severity") == "error"}
    return list(errors.values())[:PRESSING]


def spikes(facts: Facts) -> list[Spike]:
    """Return the steps that an alarm names for what happened in them, each with its rows as far as recorded."""
    steps = {record["step"]: record for record in facts.steps}
    rows = {alarm["step"]: _places(alarm) for alarm in facts.alarms}
    rows |= {batch["step"]: _places(batch) for batch in facts.batches}
    found = []
    for step in spike_steps(facts):
        record = steps.get(step, {})
        found.append(Spike(step, record.get("loss"), record.get("grad_norm"), rows.get(step, ())))
    return found


def repeated_rows(found: list[Spike]) -> list[tuple[str, int]]:
    """Return the rows that stand in several of the steps, the most frequent first: the likeliest culprits."""
    seen = Counter(row for spike in found for row in dict.fromkeys(spike.rows))
    return [(row, times) for row, times in seen.most_common(10) if times > 1]


def _called(alarm: Record) -> str:
    """Return an alarm's name as a heading has it."""
    name = alarm_name(alarm)
    return name[0].upper() + name[1:]


def _places(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the rows of an alarm or a step by their file's own name and line."""
    rows = record.get("rows")
    return tuple(map(_place, rows)) if isinstance(rows, (list, tuple)) else ()


def _place(row: Any) -> str:
    return place(row) if isinstance(row, Mapping) else PurePath(str(row)).name
