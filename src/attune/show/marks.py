"""What is marked on charts over steps: where validation parts from training, alarms, and steps that spiked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.show.facts import Facts, Record, number
from attune.show.words import alarm_name

Figure = dict[str, Any]

SIGNIFICANT = 2.0  # standard errors by which rows are worse than at the lowest validation loss
FEWEST_ROWS = 8  # fewer rows give no standard error to rely on
CLEAR_RISE = 1.02  # times the lowest validation loss, where rows were not recorded
SPIKES = ("spike", "not-finite")  # alarms about one step, whose rows are recorded


@dataclass(frozen=True, slots=True)
class Zone:
    """Steps in which validation loss is above its lowest while training loss is below what it was there."""

    start: int
    end: int
    lowest: int  # the step of the lowest validation loss
    rise: float  # nats per token from there to the last validation
    is_tested: bool  # row by row; False: by a plain rule


def divergence_zone(facts: Facts) -> Zone | None:
    """Return where validation loss rises, up to the last validation, while training loss goes on falling.

    It takes two validations at least: of many that hold, one seems to rise by chance. A rise counts when the rows are
    worse than at the lowest loss by more than two standard errors, paired row by row (Miller, arXiv 2411.00640);
    without row losses, when the loss is 2 % above its lowest.
    """
    losses = [(record["step"], loss) for record in facts.valids if (loss := number(record.get("val_loss"))) is not None]
    lowest_step, lowest = min(losses, key=lambda pair: pair[1], default=(0, 0.0))
    later = [(step, loss) for step, loss in losses if step > lowest_step]
    rows = {record["step"]: record["val_row_loss"] for record in facts.row_losses}
    known = ((step, loss, _is_worse(rows, lowest_step, step)) for step, loss in reversed(later))
    risen = list(takewhile(lambda one: one[1] > lowest * CLEAR_RISE if one[2] is None else one[2], known))
    if len(risen) < 2 or not _is_training_falling(facts, lowest_step, losses[-1][0]):
        return None
    is_tested = all(worse is not None for *_, worse in risen)
    return Zone(risen[-1][0], risen[0][0], lowest_step, risen[0][1] - lowest, is_tested)


def alarm_marks(facts: Facts) -> list[Figure]:
    """Return a mark for each alarm on the loss curve of its step: one trace for errors, one for the rest."""
    heights = {record["step"]: number(record.get("loss")) for record in facts.steps}
    heights |= {record["step"]: number(record.get("val_loss")) for record in facts.valids}
    severe = [alarm for alarm in facts.alarms if alarm.get("severity") == "error"]
    rest = [alarm for alarm in facts.alarms if alarm.get("severity") == "warning"]
    marks = [
        _marks(name, [(alarm["step"], heights.get(alarm["step"]), alarm_name(alarm)) for alarm in some], look)
        for name, some, look in (("alarm, error", severe, "var(--alarm)"), ("alarm, warning", rest, "var(--warn)"))
    ]
    return [mark for mark in marks if mark["x"]]


def spike_steps(facts: Facts) -> tuple[int, ...]:
    """Return the steps that an alarm names for what happened in them, in order."""
    named = {alarm["step"] for alarm in facts.alarms if alarm.get("name") in SPIKES}
    return tuple(sorted(named | {record["step"] for record in facts.batches}))


def spike_marks(facts: Facts, key: str) -> list[Figure]:
    """Return the spikes of a curve as marks; each leads to the rows of its step."""
    wanted = set(spike_steps(facts))
    found = [(record["step"], number(record.get(key)), "spike") for record in facts.steps if record["step"] in wanted]
    mark = _marks("spike", found, "var(--alarm)")
    return [{**mark, "meta": [f"#step-{step}" for step in mark["x"]]}] if mark["x"] else []


def shade(zone: Zone) -> tuple[Figure, Figure]:
    """Return the zone as a shape behind the curves, and the words above it."""
    area = {"type": "rect", "xref": "x", "x0": zone.start, "x1": zone.end, "yref": "paper", "y0": 0, "y1": 1}
    look = {"fillcolor": "var(--zone)", "line": {"width": 0}, "layer": "below"}
    words = {
        "text": "validation parts<br>from training",
        "font": {"color": "var(--warn)", "size": 12},
        "showarrow": False,
    }
    where = {"xref": "x", "x": zone.end, "xanchor": "right", "yref": "paper", "y": 0.5, "yanchor": "middle"}
    return {**area, **look}, {**where, **words}


def _marks(name: str, found: Iterable[tuple[int, float | None, str]], color: str) -> Figure:
    placed = [(step, height, text) for step, height, text in found if height is not None]
    return {
        "type": "scatter",
        "name": name,
        "mode": "markers",
        "x": [step for step, _, _ in placed],
        "y": [float(f"{height:.6g}") for _, height, _ in placed],
        "text": [text for _, _, text in placed],
        "marker": {
            "symbol": "triangle-down",
            "size": 11,
            "color": color,
            "line": {"color": "var(--paper)", "width": 1},
        },
        "hovertemplate": "%{text} (step %{x:,d})",
    }


def _is_worse(rows: dict[int, Any], before: int, after: int) -> bool | None:
    """Return whether the rows are significantly worse `after`; None where too few were recorded at both steps."""
    if before not in rows or after not in rows:
        return None
    losses = [_floats(rows[step]) for step in (before, after)]
    if losses[0].shape != losses[1].shape:
        return None
    worse = losses[1] - losses[0]
    worse = worse[np.isfinite(worse)]
    if worse.size < FEWEST_ROWS:
        return None
    error = worse.std(ddof=1) / worse.size**0.5
    return bool(worse.mean() > SIGNIFICANT * error)


def _floats(values: Any) -> NDArray[np.float64]:
    """Return losses as an array, NaN where a row has none; nothing of what is no list of numbers."""
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        return np.empty(0)


def _is_training_falling(facts: Facts, before: int, after: int) -> bool:
    """Return whether the loss on training rows is lower `after`: as guards measured it, else of the steps around."""
    measured = [number(facts.probe(step).get("probe_loss")) for step in (before, after)]
    if None not in measured:
        return bool(measured[1] < measured[0])  # type: ignore[operator]
    validated = [0, *(record["step"] for record in facts.valids)]
    early, late = (_mean_loss(facts.steps, _last_before(validated, step), step) for step in (before, after))
    return early is not None and late is not None and late < early


def _last_before(steps: list[int], step: int) -> int:
    return max((one for one in steps if one < step), default=0)


def _mean_loss(records: Iterable[Record], after: int, until: int) -> float | None:
    """Return the mean training loss of the steps in (after, until]; None without any."""
    losses = [number(record.get("loss")) for record in records if after < record["step"] <= max(until, 1)]
    known = [loss for loss in losses if loss is not None]
    return sum(known) / len(known) if known else None
