"""What watches over a run: each step and validation is recorded, judged, sampled and sent on to trackers.

It decides nothing about the weights, and training ends in the same bits without it, unless asked to stop the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from attune.errors import ConfigError, RefusedError, TrainingError
from attune.evals.breakdown import break_down, extremes
from attune.evals.guards.before import before_training
from attune.evals.guards.history import History
from attune.evals.guards.raised import Raised
from attune.evals.guards.steps import after_step
from attune.evals.guards.validations import after_validation
from attune.evals.heldout import Measured
from attune.evals.probe_plan import plan_probes
from attune.evals.probes import Probes
from attune.model.folder import model_length
from attune.model.loss import LossOptions
from attune.record import RunFolder, plain
from attune.train.begin import facts_of, measure_start
from attune.train.room import needs_memory
from attune.train.session import measured_value
from attune.train.stop import stopping_guards
from attune.train.trackers import open_trackers
from attune.types import Alarm, ProbeRecord, StepRecord, ValidRecord

if TYPE_CHECKING:
    from attune.train.run import Inputs
    from attune.train.session import Session

MOST_ROWS = 2000  # validation rows whose losses are recorded one by one
MOST_PLACES, NAMED_PLACES = 64, 16  # rows of a step in batches.jsonl, and in its alarm
NUMERICAL = ("G6", "G7")  # guards whose stop is a fault; another one ends the run early, with its best step
BY_STEP = ("metrics.jsonl", "rows.jsonl", "breakdown.jsonl", "samples.jsonl", "alarms.jsonl", "batches.jsonl")


class Watch:
    """The guards, the recorder and the trackers of one run. `stop`: the alarm that ends it, if one was asked to."""

    def __init__(
        self, run: RunFolder, inputs: Inputs, session: Session, tell: Callable[[str, Any], None], *, resumed: bool
    ) -> None:
        self.run, self.session, self._inputs, self.tell = run, session, inputs, tell
        self.stop: Alarm | None = None
        config, prepared = inputs.config, inputs.prepared
        self._stops = stopping_guards(config.guards.stop_on)
        plan = plan_probes(config, prepared, context=model_length(inputs.base)) if config.guards.enabled else None
        loss = LossOptions.of(config.train)
        self._probes = Probes(session.model, plan, config, prepared, run=run.path, loss=loss) if plan else None
        refuse_unmeasured(str(config.early_stop.metric), self._probes.metrics if self._probes else ())
        facts = facts_of(config, prepared, vocabulary=session.vocabulary, plan=plan)
        self.history = History.of_lines(facts, run.read_lines("metrics.jsonl"), run.read_lines("rows.jsonl"))
        self._raised = Raised(run.read_lines("alarms.jsonl"))
        self._base_rows = next(
            (line["val_row_loss"] for line in run.read_lines("rows.jsonl") if line["step"] == 0), None
        )
        self._trackers = open_trackers(config, run, resumed=resumed, tell=tell)
        if plan is not None and not resumed:
            run.event("note", f"guards: {plan.reason}")

    @property
    def skips(self) -> int:
        """How many steps in a row that are not finite are passed over."""
        is_fault = "not-finite" in self._stops or self.session.config.train.gradient_release
        return 0 if is_fault else self.history.most_skipped

    def begin(self) -> None:
        """Measure the model before training, and say what is wrong with the run before its first step.

        Raises: RefusedError when a guard that was asked to stop the run has found something.
        """
        self.validate()
        if self._probes is None:
            return
        with needs_memory("comparing chat templates"):
            start = measure_start(self._inputs, self.session, base=self.history.probes)
        self._raise(before_training(start, self.history.facts))
        if self.stop is not None:
            raise RefusedError(f"{_told(self.stop)}\nguards.stop_on asks to stop for it; nothing was trained.")

    def step(self, record: StepRecord) -> None:
        """Take in a step."""
        self._record(record)
        self.history.add_step(record)
        self.tell_notes()
        self.tell("step", record)
        self._raise(after_step(self.history))

    def validate(self) -> None:
        """Measure, record and judge; what is best so far is noted in the session's progress."""
        session, step = self.session, self.session.progress.step
        found = session.validate() if session.valid_corpus is not None else None
        probe: ProbeRecord | None = None
        if self._probes is not None:
            with needs_memory("measuring for the guards"):
                measured = None if found is None else found[1]
                probe, samples = self._probes.measure(step, micro_tokens=session.room.micro_tokens, validated=measured)
            self.run.append("samples.jsonl", *samples)
        if found is not None:
            scores = probe.scores if probe is not None else {}
            self.tell("scores", scores)
            self._take_in(*found, scores=scores)
        if probe is not None:
            self._record(probe)
            self.history.add_probe(probe)
        if found is not None:
            self.tell("valid", found[0])
        if found is not None or probe is not None:
            self._raise(after_validation(self.history))

    def tell_notes(self) -> None:
        """Record and report what the session has to say: what it chose, and what it had to change."""
        for text in self.session.take_notes():
            self.run.event("note", text, step=self.session.progress.step)
            self.tell("note", text)

    def say(self, kind: str, text: str) -> None:
        """Record and tell what was done with the run."""
        self.run.event(kind, text, step=self.session.progress.step)
        self.tell("action", text)

    def sum_up(self) -> None:
        """Say of alarms that were not told one by one how many there were."""
        self._raise(self._raised.rest(self.history))

    def close(self, result: Mapping[str, Any]) -> None:
        """Close the trackers; `result` is how the run ended."""
        self._trackers.close(result)

    def check_stop(self) -> bool:
        """Whether the run is to end here because a guard was asked to end it.

        Raises: TrainingError where the numbers themselves went wrong.
        """
        if self.stop is None:
            return False
        if self.stop.id in NUMERICAL:
            raise TrainingError(f"{_told(self.stop)}\nguards.stop_on asks to stop for it.")
        self.say("stop", f"guards.stop_on asks to stop for {self.stop.id} {self.stop.name}")
        return True

    def _take_in(self, record: ValidRecord, measured: Measured, *, scores: Mapping[str, float]) -> None:
        """Record a validation with its rows, and judge whether it is the best."""
        corpus = self.session.valid_corpus
        assert corpus is not None, "there was a validation"
        self.session.note_best(record, scores)
        self._record(record)
        losses = [None if np.isnan(loss) else round(float(loss), 5) for loss in measured.row_loss[:MOST_ROWS]]
        if record.step == 0:
            self._base_rows = losses
        self.run.append("rows.jsonl", {"step": record.step, "val_row_loss": losses})
        self.run.append("breakdown.jsonl", {"step": record.step, "parts": break_down(corpus, measured)})
        decode = self._inputs.prepared.template.tokenizer.decode_after
        ends = extremes(corpus, measured, self._base_rows, decode)
        self.run.write_json("extremes.json", {"step": record.step, **ends})
        self.history.add_valid(record, measured.row_loss)
        if record.step and self.session.progress.best_step == record.step:
            metric = str(self.session.config.early_stop.metric)
            value = measured_value(metric, record, scores)
            self.run.event("best", f"step {record.step}: {metric} {value:.4f} is the best so far", step=record.step)
            self.tell("best", {"step": record.step, "metric": metric, "value": value})

    def _record(self, record: StepRecord | ValidRecord | ProbeRecord) -> None:
        """Write a record into the truth that every view reads, and send it on."""
        self.run.append("metrics.jsonl", {**plain(record), "time": round(self.run.seconds(), 3)})
        self._trackers.record(record)

    def _raise(self, alarms: Iterable[Alarm]) -> None:
        """Record and tell the alarms that say something new."""
        for alarm in self._raised.admit(alarms):
            named = self._with_rows(alarm)
            self.run.append("alarms.jsonl", named)
            self.run.event("alarm", f"{named.severity}: {named.message}", step=named.step, id=named.id)
            self._trackers.alarm(named)
            self.tell("alarm", named)
            if named.name in self._stops and named.severity != "info":
                self.stop = self.stop or named

    def _with_rows(self, alarm: Alarm) -> Alarm:
        """Return an alarm about a step with the rows of that step."""
        if alarm.name not in ("spike", "not-finite") or alarm.rows or alarm.step < 1:
            return alarm
        places = self.session.places(alarm.step)
        self.run.append("batches.jsonl", {"step": alarm.step, "rows": places[:MOST_PLACES]})
        return Alarm(**{**asdict(alarm), "rows": tuple(places[:NAMED_PLACES])})


def refuse_unmeasured(metric: str, known: Sequence[str]) -> None:
    """Raise ConfigError when what chooses the best step is not measured; `known`: metrics that suit the answers."""
    if metric.startswith("val_") or metric in known:
        return
    if not known:
        raise ConfigError(
            f"early_stop.metric: {metric} is measured on answers to validation prompts, and this run has none.\n"
            "Give conversations to validate on (--data.valid FILE) and leave guards.enabled and guards.prompts on."
        )
    raise ConfigError(
        f"early_stop.metric: {metric} does not suit the validation answers of this run. Those that do:\n"
        f"{', '.join(known)}, val_exact_match, val_accuracy, val_loss."
    )


def _told(alarm: Alarm) -> str:
    """Return an alarm as an error says it."""
    return f"{alarm.id} {alarm.name}: {alarm.message}\n{alarm.fix}"


def drop_after(run: RunFolder, step: int) -> None:
    """Take out of the run folder what was recorded after a step: a resumed run records it again."""
    for name in BY_STEP:
        if (run.path / name).is_file():
            run.write_lines(name, [line for line in run.read_lines(name) if line["step"] <= step])
