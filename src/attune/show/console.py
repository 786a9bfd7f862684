"""What a run says while it runs: a progress bar and a few lines on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from attune.show.words import SEVERITIES, count, duration, figure, percent, rows_of, visible
from attune.types import Alarm, StepRecord, ValidRecord

if TYPE_CHECKING:
    from rich.progress import Progress
    from typing_extensions import Self

LABEL_WIDTH = 10
MAX_FINDINGS = 2  # lines; the rest is counted. The whole of a normal run is at most 25 lines.
MAX_NOTES = 2
MAX_SAID = 3  # lines of notes and alarms together
MAX_ALARM_LINES = 2  # the first warning or error, and what to do; the rest is named at the end


class Console:
    """Turns the events of a run into lines: call it as on_event(kind, payload). Silent on every rank but 0."""

    def __init__(self, stream: TextIO, *, rank: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._silent = rank != 0
        self._clock = clock
        self._bar: Progress | None = None
        self._task: Any = None
        self._plan: Mapping[str, Any] = {}
        self._first: tuple[float, int] | None = None  # when the first step came, and its number
        self._held: StepRecord | None = None  # a due line that waits for the validation of its step
        self._base: ValidRecord | None = None
        self._best: Mapping[str, Any] = {}  # step, metric and value of the best validation, as the run judges
        self._scores: Mapping[str, float] = {}  # of the answers at the validation that comes next
        self._notes = 0
        self._notes_told = 0
        self._alarm_lines = 0
        self._told: dict[str, int] = {}  # alarms by name: place in SEVERITIES of the worst that was told

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __call__(self, kind: str, payload: Any) -> None:
        """Hear one event; kinds that say nothing to a reader are passed over."""
        heard = getattr(self, f"_on_{kind}", None)
        if heard is not None and not self._silent:
            heard(payload)

    def close(self) -> None:
        """Print what is held back and take the progress bar away."""
        self._flush()
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def line(self, label: str, text: str) -> None:
        """Print one line: a label of one word, then the text, with control characters written out."""
        if self._silent:
            return
        shown = visible(text).replace("\n", " ")
        plain = f"{label:<{LABEL_WIDTH}}{shown}"
        if self._bar is None:
            self._stream.write(f"{plain}\n")
            self._stream.flush()
        else:
            self._bar.console.print(plain, markup=False, highlight=False, soft_wrap=True)

    def _on_data(self, prepared: Any) -> None:
        for label, text in data_lines(prepared):
            self.line(label, text)

    def _on_model(self, text: str) -> None:
        self.line("model", text)

    def _on_plan(self, plan: Mapping[str, Any]) -> None:
        self._plan = plan
        self.line(
            "device",
            f"{plan['device']}, {plan['precision']}, {plan['attention']} attention: {plan['attention_reason']}",
        )
        tokens = plan.get("batch_tokens")
        size = f"up to {count(tokens)} tokens" if tokens else f"{count(plan['batch_rows'])} rows"
        self.line(
            "plan",
            f"{count(plan['steps'])} steps of {size}, {figure(plan['epochs'], 2)} epochs, "
            f"learning rate {figure(plan['learning_rate'])}, into {plan['run']}",
        )
        self._open_bar(int(plan["steps"]))

    def _open_bar(self, steps: int) -> None:
        """Start a progress bar on a terminal that can draw one."""
        if not self._stream.isatty() or os.environ.get("TERM") == "dumb":
            return
        from rich.console import Console as Terminal
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        terminal = Terminal(file=self._stream, highlight=False)
        self._bar = Progress(*columns, console=terminal, transient=True, redirect_stdout=False, redirect_stderr=False)
        self._task = self._bar.add_task("", total=steps)
        self._bar.start()

    def _on_step(self, record: StepRecord) -> None:
        self._flush()
        now = self._clock()
        if self._first is None:
            self._first = (now, record.step)
        if self._bar is not None:
            self._bar.update(self._task, completed=record.step, description=f"loss {record.loss:.3f}")
        every = int(self._plan.get("log_every", 1))
        if record.step % every == 0 or record.step in (1, self._plan.get("steps")):
            self._held = record

    def _on_best(self, best: Mapping[str, Any]) -> None:
        """Hear that the validation told next is the best so far: {"step", "metric", "value"}."""
        self._best = best

    def _on_scores(self, scores: Mapping[str, float]) -> None:
        """Hear the scores of the answers given at the validation told next, by metric."""
        self._scores = scores

    def _on_valid(self, record: ValidRecord) -> None:
        scores, self._scores = self._scores, {}
        text = f"val_loss {record.val_loss:.3f}  val_accuracy {percent(record.val_accuracy)}"
        value = scores.get(self._metric, getattr(record, self._metric, None))
        if self._metric not in ("val_loss", "val_accuracy") and value is not None:
            text += f"  {self._metric} {percent(value)}"
        if record.step == 0:
            self._base = record
            self.line("base", f"{text}  ({rows_of(record.val_rows, 'held-out ')}, before training)")
            return
        best = "  best" if self._best.get("step") == record.step else ""
        held, self._held = self._held, None
        step = f"{self._counter(record.step)}  " if held is None else f"{self._step_text(held)}  "
        self.line("step", f"{step}{text}{best}{self._left(record.step)}")

    @property
    def _metric(self) -> str:
        return str(self._plan.get("metric", "val_loss"))

    def _flush(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            self.line("step", self._step_text(held) + self._left(held.step))

    def _counter(self, step: int) -> str:
        total = str(self._plan.get("steps", ""))
        return f"{step:>{len(total)}}/{total}"

    def _step_text(self, record: StepRecord) -> str:
        return (
            f"{self._counter(record.step)}  loss {record.loss:.3f}  accuracy {percent(record.accuracy)}  "
            f"lr {record.learning_rate:.1e}  {rate(record.tokens_per_s)}"
        )

    def _left(self, step: int) -> str:
        total = int(self._plan.get("steps", step))
        if self._first is None or step <= self._first[1] or step >= total:
            return ""
        seconds = (self._clock() - self._first[0]) / (step - self._first[1])
        return f"  {duration(seconds * (total - step))} left"

    def _on_alarm(self, alarm: Alarm) -> None:
        """Say what a guard saw, the first time with what to do, and again when it got worse; infos are only counted."""
        rank, known = SEVERITIES.index(alarm.severity), self._told.get(alarm.name)
        if alarm.severity == "info" or (known is not None and rank >= known):
            return
        when = f"at step {count(alarm.step)}" if alarm.step else "before training"
        said = [("alarm", f"{alarm.severity}, {alarm.name} {when}: {alarm.message}")]
        said += [("", alarm.fix)] if alarm.fix and known is None else []
        room = min(MAX_ALARM_LINES, MAX_SAID - self._notes_told)
        said = said[: max(0, room - self._alarm_lines)]
        if not said:
            return
        self._flush()
        self._told[alarm.name] = rank
        self._alarm_lines += len(said)
        for label, text in said:
            self.line(label, text)

    def _on_note(self, text: str) -> None:
        self._notes += 1
        if self._notes_told < min(MAX_NOTES, MAX_SAID - self._alarm_lines):
            self._notes_told += 1
            self.line("note", text)

    def _on_action(self, text: str) -> None:
        """Say what was done with the run, however much was said before."""
        self._flush()
        self.line("note", text)

    def _on_progress(self, progress: Mapping[str, Any]) -> None:
        """Show how many rows a model has answered: a bar on a terminal, else one line at the end."""
        rows, total = int(progress["rows"]), int(progress["of"])
        if self._bar is None and rows < total:
            self._open_bar(total)
        if self._bar is not None:
            self._bar.update(self._task, completed=rows, description=f"{progress['system']} answers")
        if rows >= total:
            self.close()
            self.line("answers", f"{progress['system']}: {rows_of(rows)}")

    def _on_done(self, result: Mapping[str, Any]) -> None:
        self.close()
        run = result["run"]
        untold = self._notes - self._notes_told
        more = f"{untold} more notes in {run}/events.jsonl" if untold else ""
        if result.get("alarms"):
            self.line("alarms", "; ".join(filter(None, (alarms_counted(result["alarms"]), more))))
        elif more:
            self.line("note", more)
        ending = f"{duration(result['seconds'])}{self._gain(result)}"
        if result["stopped_early"]:
            done = f"{count(result['steps'])} of {count(result['total_steps'])} steps"
            self.line("stopped", f"early, after {done}, {ending}")
        else:
            self.line("done", f"{count(result['steps'])} steps, {ending}")
        self.line("model", f"{run}/model (step {result['best_step']})")

    def _gain(self, result: Mapping[str, Any]) -> str:
        """Return what training did to the validation loss, and what chose the step that is kept where that did not."""
        loss, step = result["metrics"].get("val_loss"), result["best_step"]
        if loss is None:
            return ""
        before = "" if self._base is None else f"{self._base.val_loss:.3f} before, "
        gain = f"; validation loss {before}{loss:.3f} at step {step}"
        if self._metric == "val_loss":
            return gain
        # a resumed run may not have heard of the best step of the run before it
        value = f" ({percent(self._best['value'])})" if self._best.get("step") == step else ""
        return f"{gain}, the best by {self._metric}{value}"


def data_lines(prepared: Any) -> Iterator[tuple[str, str]]:
    """Yield (label, text) for what was read: layout, rows, ledger, tokens, template and the findings that matter.

    `prepared` is what data preparation returns; only its figures are looked at.
    """
    ledger, template = prepared.ledger, prepared.template
    yield "data", "; ".join(f"{file}: {stated}" for file, stated in prepared.layouts.items())
    held = prepared.valid.num_rows if prepared.valid is not None else 0
    gone = [f"{count(n)} {reason}" for reason, n in ledger.reasons.items() if not reason.startswith("held_out")]
    reworded = f", {count(ledger.augmented)} of them reworded" if ledger.augmented else ""
    trained = f"{count(prepared.train.num_rows)} to train on{reworded}"
    yield "rows", ", ".join([trained, f"{count(held)} held out", *gone])
    tokens = ledger.tokens_in + ledger.tokens_augmented
    share = percent(ledger.tokens_learned / tokens) if tokens else "none"
    made = f" and {count(ledger.tokens_augmented)} in reworded rows" if ledger.augmented else ""
    lost = f", {count(ledger.tokens_lost)} lost with dropped or cut rows" if ledger.tokens_lost else ""
    yield "tokens", f"{count(ledger.tokens_in)}{made}, {count(ledger.tokens_learned)} learned ({share}){lost}"
    yield "template", f"{template.name}: {template.reason}"
    pressing = [finding for finding in prepared.findings if finding.severity != "info"]
    for finding in pressing[:MAX_FINDINGS]:
        yield finding.severity, f"{finding.id} {finding.message}"
    if len(pressing) > MAX_FINDINGS:
        yield "warning", f"and {len(pressing) - MAX_FINDINGS} more: attune check lists all"


def alarms_counted(alarms: Sequence[Any]) -> str:
    """Return how many alarms there were of each severity and which, from records or the entries of result.json."""
    found: dict[str, list[str]] = {}
    for alarm in alarms:
        entry = alarm if isinstance(alarm, Mapping) else asdict(alarm)
        found.setdefault(entry["severity"], []).append(entry["name"])
    kinds = [
        f"{len(names)} {severity}{'s' * (len(names) > 1 and severity != 'info')} ({', '.join(dict.fromkeys(names))})"
        for severity in SEVERITIES
        if (names := found.get(severity))
    ]
    return f"{', '.join(kinds)}: what they mean and what to do is in the report"


def rate(tokens_per_s: float) -> str:
    """Return a speed in words, such as 12.3 k tokens/s."""
    if tokens_per_s >= 1e6:
        return f"{tokens_per_s / 1e6:.1f} M tokens/s"
    return f"{tokens_per_s / 1e3:.1f} k tokens/s" if tokens_per_s >= 1e4 else f"{tokens_per_s:.0f} tokens/s"
