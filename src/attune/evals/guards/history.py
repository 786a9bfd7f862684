"""The history of a run as the guards see it: built from recorded values alone, live or from the files of a run."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from attune.evals.guards.statistics import against_best_of, paired_rise, robust_z
from attune.evals.guards.thresholds import DEFAULT, Thresholds
from attune.types import ProbeRecord, StepRecord, ValidRecord

Record = TypeVar("Record", StepRecord, ValidRecord, ProbeRecord)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a run before its first step."""

    vocabulary: int
    clip: float
    warmup_steps: int
    total_steps: int
    kind: Literal["full", "lora", "qlora"]
    rank: int
    learning_rate: float
    replay_source: str  # empty: no replay
    metric: str  # what chooses the best step, such as val_loss or field_accuracy
    is_structured: bool  # references are labels, numbers or JSON
    reference_finish: float  # share of the references that are no longer than the longest answer allowed
    releases: bool = False  # each weight is updated as soon as its gradient is known
    reference_opener: str = ""  # how most references begin, as text; empty: not known

    @property
    def has_task_metric(self) -> bool:
        """Whether the best step is chosen by something that says more about the task than a loss."""
        return self.metric != "val_loss"


@dataclass(frozen=True, slots=True)
class Spike:
    """How far a step stood out, in robust deviations of the logarithm; `median` is that of the losses before it."""

    loss_z: float
    norm_z: float
    median: float


@dataclass(frozen=True, slots=True)
class Validation:
    """A validation, and how it stands against the best one before it (by loss).

    z and rise: the paired test on the rows that both have, `rows` of them; no best yet, or no rows: 0. z allows for the
    best being one of several.
    """

    record: ValidRecord
    train_loss: float  # moving average of the steps at that time; NaN before the first
    best: ValidRecord | None = None
    best_train_loss: float = math.nan
    z: float = 0.0
    rise: float = 0.0
    rows: int = 0


class History:
    """All that the guards look at; adding a step takes well under a millisecond, whatever the length of the run."""

    def __init__(self, facts: Facts, thresholds: Thresholds = DEFAULT) -> None:
        self.facts = facts
        self.thresholds = thresholds
        self.last: StepRecord | None = None
        self.steps = 0  # finite ones
        self.num_not_finite = 0
        self.not_finite_in_a_row = 0
        self.smooth_loss = math.nan  # moving average, as its first values alone would have it (bias corrected)
        self.spike: Spike | None = None  # of the last step
        self.num_spikes = 0
        self.clipped: deque[bool] = deque(maxlen=thresholds.clipped_window)  # of the steps after warm-up
        self.recent: deque[float] = deque(maxlen=thresholds.recent_steps)  # losses
        self.validations: list[Validation] = []
        self.probes: list[ProbeRecord] = []
        self._start: list[float] = []
        self._log_losses: deque[float] = deque(maxlen=thresholds.spike_window)
        self._log_norms: deque[float] = deque(maxlen=thresholds.spike_window)
        self._decayed = 0.0  # sum behind the moving average
        self._best: Validation | None = None
        self._best_rows: NDArray[np.float64] | None = None

    def add_step(self, record: StepRecord) -> None:
        """Take in a step; one whose loss or gradient is not finite is counted and else leaves no trace."""
        self.last, self.spike = record, None
        if not (math.isfinite(record.loss) and math.isfinite(record.grad_norm)):
            self.num_not_finite += 1
            self.not_finite_in_a_row += 1
            return
        self.not_finite_in_a_row = 0
        self.steps += 1
        if len(self._start) < self.thresholds.recent_steps:
            self._start.append(record.loss)
        decay = 1 - 2 / (self.thresholds.smooth_steps + 1)
        self._decayed = decay * self._decayed + (1 - decay) * record.loss
        self.smooth_loss = self._decayed / (1 - decay**self.steps)
        self.recent.append(record.loss)
        if record.step > self.facts.warmup_steps:
            self.clipped.append(record.grad_norm > self.facts.clip)
        self._look_for_spike(record)

    def _look_for_spike(self, record: StepRecord) -> None:
        """Compare a step with those before it, then count it among them."""
        limits = self.thresholds
        log_loss, log_norm = math.log(max(record.loss, 1e-12)), math.log(max(record.grad_norm, 1e-12))
        if len(self._log_losses) >= limits.spike_fewest:
            loss_z, median = robust_z(log_loss, self._log_losses, limits.spike_least_deviation)
            norm_z, _ = robust_z(log_norm, self._log_norms, limits.spike_least_deviation)
            if record.loss - math.exp(median) < limits.spike_least_rise:
                loss_z = min(loss_z, 0.0)
            is_one = loss_z > limits.spike_loss_z or norm_z > limits.spike_norm_z
            if is_one or min(loss_z, norm_z) > limits.spike_both_z:
                self.spike = Spike(loss_z, norm_z, math.exp(median))
                self.num_spikes += 1
        self._log_losses.append(log_loss)
        self._log_norms.append(log_norm)

    def add_valid(self, record: ValidRecord, row_loss: NDArray[np.float64] | None = None) -> None:
        """Take in a validation; row_loss: nats per learned token of each row (NaN: teaches nothing), float [rows]."""
        rows = None if row_loss is None else np.asarray(row_loss, np.float64)[: self.thresholds.overfit_most_rows]
        found = Validation(record, self.smooth_loss)
        if self._best is not None:
            z, rise, count = 0.0, record.val_loss - self._best.record.val_loss, 0
            if rows is not None and self._best_rows is not None:
                z, rise, count = paired_rise(rows, self._best_rows)
                z = against_best_of(z, len(self.validations))
            found = Validation(
                record, self.smooth_loss, self._best.record, self._best.train_loss, z=z, rise=rise, rows=count
            )
        self.validations.append(found)
        if math.isfinite(record.val_loss) and (self._best is None or record.val_loss < self._best.record.val_loss):
            self._best, self._best_rows = found, rows

    def add_probe(self, record: ProbeRecord) -> None:
        """Take in what was measured beside a validation."""
        self.probes.append(record)

    @property
    def most_skipped(self) -> int:
        """How many steps in a row that are not finite may be skipped: one more ends the run."""
        return self.thresholds.not_finite_in_a_row - 1

    @property
    def start_loss(self) -> float:
        """The loss before training: on the probe's training rows, else of the first steps; NaN before them."""
        if self.probes and self.probes[0].step == 0:
            return self.probes[0].probe_loss
        return sum(self._start) / len(self._start) if self._start else math.nan

    def metric_at(self, step: int) -> float | None:
        """Return the value of the chosen task metric at a validation; None where it was not measured."""
        name = self.facts.metric
        record: ValidRecord | None = next((v.record for v in self.validations if v.record.step == step), None)
        if name.startswith("val_"):
            return None if record is None else getattr(record, name, None)
        return next((probe.scores.get(name) for probe in self.probes if probe.step == step), None)

    @classmethod
    def of_lines(
        cls,
        facts: Facts,
        metrics: Iterable[Mapping[str, Any]],
        rows: Iterable[Mapping[str, Any]] = (),
        *,
        thresholds: Thresholds = DEFAULT,
    ) -> History:
        """Return the history that the lines of metrics.jsonl and rows.jsonl tell, in their order."""
        history = cls(facts, thresholds)
        row_losses = {
            line["step"]: np.array([_number(value) for value in line["val_row_loss"]], np.float64) for line in rows
        }
        for line in metrics:
            if "probe_loss" in line:
                history.add_probe(_record(ProbeRecord, line))
            elif "val_loss" in line:
                history.add_valid(_record(ValidRecord, line), row_losses.get(line["step"]))
            elif "loss" in line:
                history.add_step(_record(StepRecord, line))
        return history


def _number(value: Any) -> float:
    """Return a number as a line holds it: NaN and infinity are text there, null is NaN."""
    return math.nan if value is None else float(value)


def _record(kind: type[Record], line: Mapping[str, Any]) -> Record:
    """Return a record from a line with the names of its fields; other names in the line are passed over."""
    given = [field for field in fields(kind) if field.name in line]
    return kind(**{field.name: _value(line[field.name], str(field.type)) for field in given})


def _value(value: Any, kind: str) -> Any:
    """Return a value of a line as its field has it: what is not finite is a number again."""
    return _number(value) if kind == "float" or (kind == "float | None" and value is not None) else value
