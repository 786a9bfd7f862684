"""The validation loss taken apart: by source, turn, place in the answer and length, the base model beside the tuned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from attune.show.facts import Facts, Record, number, records_of

TITLES = {
    "source": "By source",
    "turn": "By turn of the conversation",
    "position": "By place in the answer",
    "length": "By length of the row, in tokens",
}


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the validation rows; `before` is what the base model made of it, None where it was not measured."""

    name: str
    rows: Any
    tokens: Any
    loss: float | None
    accuracy: float | None
    loss_before: float | None
    accuracy_before: float | None
    at: tuple[float | None, float | None]  # where the losses stand on a line from 2 to 98, before and after


@dataclass(frozen=True, slots=True)
class Group:
    """The parts of one kind."""

    title: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Breakdown:
    """All kinds of parts at one step."""

    step: int
    has_base: bool
    groups: tuple[Group, ...]


def break_down(facts: Facts) -> Breakdown | None:
    """Return the loss by part at the step that is kept, else at the last one; None where it was not recorded.

    A kind with one part only is left out: it says what the whole says.
    """
    by_step = {record["step"]: _parts(record) for record in facts.breakdowns}
    if not by_step:
        return None
    kept = int((facts.best or {}).get("step", -1))
    step = kept if kept in by_step else max(by_step)
    base = by_step.get(0, {}) if step else {}
    losses = [number(part.get("loss")) for some in (by_step[step], base) for part in some.values()]
    reach = max((loss for loss in losses if loss is not None), default=0.0) or 1.0
    groups = []
    for by, title in TITLES.items():
        found = [_part(part, base.get(key, {}), reach) for key, part in by_step[step].items() if key[0] == by]
        if len(found) > 1:
            groups.append(Group(title, tuple(found)))
    return Breakdown(step, bool(base), tuple(groups)) if groups else None


def _parts(record: Record) -> dict[tuple[str, str], Record]:
    """Return the parts of one validation by kind and name, in their order."""
    return {(str(part.get("by")), str(part.get("name"))): part for part in records_of(record.get("parts"))}


def _part(after: Mapping[str, Any], before: Mapping[str, Any], reach: float) -> Part:
    loss, loss_before = number(after.get("loss")), number(before.get("loss"))
    return Part(
        PurePath(str(after.get("name"))).name if after.get("by") == "source" else str(after.get("name")),
        after.get("rows"),
        after.get("tokens"),
        loss,
        number(after.get("accuracy")),
        loss_before,
        number(before.get("accuracy")),
        (_place(loss_before, reach), _place(loss, reach)),
    )


def _place(loss: float | None, reach: float) -> float | None:
    return None if loss is None else round(2 + 96 * max(0.0, loss) / reach, 2)
