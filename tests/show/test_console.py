"""What a run says: few lines, each in its place, on a terminal and off it, and never a control character."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from attune.show.console import MAX_ALARM_LINES, MAX_NOTES, Console, data_lines, rate
from attune.types import Alarm, Finding, Ledger, Severity, StepRecord, ValidRecord

WHERE = {"device": "cpu", "precision": "float32", "attention": "exact", "attention_reason": "cpu", "run": "runs/a"}


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@dataclass
class Clock:
    """A clock that goes on by hand."""

    now: float = 0.0

    def __call__(self) -> float:
        """Return the time, in seconds."""
        return self.now


def prepared(**changes: Any) -> SimpleNamespace:
    """Return what data preparation hands out, as far as the console looks at it."""
    ledger = Ledger(
        rows=103,
        counts={"used": 90, "cut": 0, "dropped": 3, "duplicate": 0, "held_out": 10},
        reasons={"dropped: too long": 3, "held_out: validation": 10},
        tokens_in=2000,
        tokens_learned=1000,
        tokens_context=900,
        tokens_lost=100,
    )
    found = {
        "ledger": ledger,
        "layouts": {"rows.jsonl": "JSONL of 103 rows: messages"},
        "template": SimpleNamespace(name="chatml", reason="chosen"),
        "train": SimpleNamespace(num_rows=90),
        "valid": SimpleNamespace(num_rows=10),
        "findings": (),
    }
    return SimpleNamespace(**{**found, **changes})


def step(number: int) -> StepRecord:
    """Return the record of a step."""
    return StepRecord(
        step=number,
        loss=2.0 / number,
        accuracy=0.5,
        perplexity=7.4,
        learning_rate=1e-4,
        epoch=0.1,
        train_flos=1e9,
        grad_norm=1.0,
        learned_tokens=100,
        tokens=200,
        tokens_per_s=12345.0,
        memory_gb=1.0,
    )


def valid(number: int, loss: float) -> ValidRecord:
    """Return the record of a validation."""
    return ValidRecord(number, loss, 0.25, 9.0, 10, 500)


@dataclass
class Told:
    """A run told to a console from its plan to its end."""

    console: Console
    clock: Clock = field(default_factory=Clock)

    def run(self, *, steps: int = 100, log_every: int = 10, stopped_early: bool = False) -> None:
        """Tell a whole run of steps of one second each, validated whenever a line is due; half as long if stopped."""
        plan = {
            "steps": 2 * steps if stopped_early else steps,
            "epochs": 2.0,
            "batch_rows": 16,
            "learning_rate": 1e-4,
            "log_every": log_every,
            "device": "cpu",
            "precision": "float32",
            "attention": "exact",
            "attention_reason": "device is cpu",
            "run": "runs/a",
        }
        self.console("data", prepared())
        self.console("model", "tiny: 1,000 parameters, 1,000 train (full)")
        self.console("plan", plan)
        self.console("valid", valid(0, 3.0))
        for number in range(1, steps + 1):
            self.clock.now += 1.0
            self.console("step", step(number))
            if number % log_every == 0:
                if number in (log_every, 40):
                    self.console("best", {"step": number, "metric": "val_loss", "value": 2.0})
                self.console("valid", valid(number, 2.0 if number < steps / 2 else 2.5))
                self.console("saved", "runs/a/checkpoints")
        result = {
            "run": "runs/a",
            "steps": steps,
            "total_steps": plan["steps"],
            "best_step": 40,
            "stopped_early": stopped_early,
            "seconds": 100.0,
            "metrics": {"val_loss": 2.0},
        }
        self.console("done", result)


def tell(stream: io.StringIO, **options: Any) -> list[str]:
    """Return the lines of a run told to a stream."""
    clock = Clock()
    Told(Console(stream, clock=clock), clock).run(**options)
    return stream.getvalue().splitlines()


def test_a_normal_run_takes_at_most_25_lines() -> None:
    """Off a terminal each line stands alone: data, model, plan, ten losses with validation, the end."""
    lines = tell(io.StringIO())
    assert len(lines) <= 23  # the verb adds the report and the next command
    labels = [line.split()[0] for line in lines]
    assert labels[:8] == ["data", "rows", "tokens", "template", "model", "device", "plan", "base"]
    assert labels[8:] == [*["step"] * 11, "done", "model"]
    assert lines[6] == "plan      100 steps of 16 rows, 2.00 epochs, learning rate 0.0001, into runs/a"
    assert lines[8].startswith("step        1/100  loss 2.000  accuracy 50.0 %  lr 1.0e-04  12.3 k tokens/s")
    assert lines[9].endswith(
        "val_loss 2.000  val_accuracy 25.0 %  best  1 min 30 s left".replace("1 min 30 s", "90.0 s")
    )
    assert "best" not in lines[10]
    assert lines[-2] == "done      100 steps, 1 min 40 s; validation loss 3.000 before, 2.000 at step 40"


def test_lines_come_as_often_as_asked() -> None:
    """log.every decides; the first and last step are always told; a line waits for no validation."""
    stream = io.StringIO()
    console = Console(stream)
    console("plan", {**dict.fromkeys(("device", "precision", "attention", "attention_reason", "run"), "x"), "steps": 7,
                     "epochs": 1.0, "batch_rows": 1, "learning_rate": 1.0, "log_every": 3})  # fmt: skip
    for number in range(1, 8):
        console("step", step(number))
    console.close()
    told = [line.split()[1] for line in stream.getvalue().splitlines() if line.startswith("step")]
    assert told == ["1/7", "3/7", "6/7", "7/7"]


def test_a_step_of_tokens_is_planned_in_tokens() -> None:
    """With train.batch_tokens the plan names it, not the rows that then mean nothing."""
    stream = io.StringIO()
    Console(stream)("plan", {**dict.fromkeys(("device", "precision", "attention", "attention_reason", "run"), "x"),
                             "steps": 7, "epochs": 1.0, "batch_rows": 16, "batch_tokens": 2048,
                             "learning_rate": 1.0, "log_every": 3})  # fmt: skip
    assert "plan      7 steps of up to 2,048 tokens, 1.00 epochs" in stream.getvalue()


def test_an_early_stop_says_so() -> None:
    """A run that stopped for lack of progress is not called done, and says of how many steps it did how many."""
    lines = tell(io.StringIO(), stopped_early=True)
    assert lines[-2].startswith("stopped   early, after 100 of 200 steps, 1 min 40 s; validation loss 3.000 before")


@pytest.mark.parametrize("no_color", [False, True])
def test_on_a_terminal_there_is_a_bar(monkeypatch: pytest.MonkeyPatch, no_color: bool) -> None:
    """A terminal gets the same lines and a bar that is gone at the end; NO_COLOR takes its colours away."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    else:
        monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    text = "\n".join(tell(stream))
    assert "100/100" in text
    assert "loss 0.020" in text
    assert ("\x1b[32m" not in text) == no_color
    last = text.rpartition("\x1b[2K")[2].splitlines()
    assert [line.split()[0] for line in last] == ["done", "model"]


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a bar cannot be drawn none is."""
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    assert tell(stream) == tell(io.StringIO())
    assert "\x1b" not in stream.getvalue()


def test_other_ranks_are_silent() -> None:
    """Of several processes one speaks."""
    stream = io.StringIO()
    Told(Console(stream, rank=1)).run()
    assert stream.getvalue() == ""


def test_names_cannot_control_the_terminal() -> None:
    """A file called like an escape sequence is written out, and stays on one line."""
    stream = io.StringIO()
    Console(stream)("data", prepared(layouts={"a\x1b[2J\nb": "JSONL"}))
    assert stream.getvalue().startswith("data      a[U+001B][2J b: JSONL\n")


def test_notes_are_capped() -> None:
    """Many notes do not bury the rest; their number and place are told at the end."""
    stream = io.StringIO()
    console = Console(stream)
    for number in range(MAX_NOTES + 3):
        console("note", f"note {number}")
    console("unheard-of", None)
    assert len(stream.getvalue().splitlines()) == MAX_NOTES
    console("done", {"run": "r", "steps": 1, "best_step": 1, "stopped_early": False, "seconds": 1.0, "metrics": {}})
    assert "note      3 more notes in r/events.jsonl" in stream.getvalue()


def test_findings_that_matter_are_told() -> None:
    """Warnings come before training, the first two and the number of the rest; infos stay in the report."""
    warning = Finding("D10", "empty", "warning", 1, 0.1, "1 row has no answer.", "")
    info = Finding("R01", "layout", "info", 1, 0.1, "read", "")
    lines = list(data_lines(prepared(findings=(warning, warning, warning, info))))
    assert lines[4:] == [
        ("warning", "D10 1 row has no answer."),
        ("warning", "D10 1 row has no answer."),
        ("warning", "and 1 more: attune check lists all"),
    ]
    assert ("rows", "90 to train on, 10 held out, 3 dropped: too long") in lines
    assert ("tokens", "2,000, 1,000 learned (50.0 %), 100 lost with dropped or cut rows") in lines


def test_answers_are_counted() -> None:
    """While models answer, a plain stream hears of each once; a terminal sees a bar."""
    for stream, bar in ((io.StringIO(), False), (Terminal(), True)):
        console = Console(stream)
        for rows in (2, 4):
            console("progress", {"system": "base", "rows": rows, "of": 4})
        assert "answers   base: 4 rows" in stream.getvalue()
        assert ("base answers" in stream.getvalue()) == bar


def test_speeds_are_readable() -> None:
    """Three sizes of numbers."""
    assert [rate(812.4), rate(12345), rate(2.5e6)] == ["812 tokens/s", "12.3 k tokens/s", "2.5 M tokens/s"]


def alarm(number: int, severity: Severity = "warning", name: str = "spike") -> Alarm:
    """Return an alarm."""
    return Alarm("G5", name, number, severity, 9.0, 6.0, "The loss jumped.", "Look at the rows.")


def hearing(**changes: Any) -> tuple[Console, io.StringIO]:
    """Return a console that has heard the plan of nine steps, and what it has said since."""
    stream = io.StringIO()
    console = Console(stream)
    plan = {"steps": 9, "log_every": 9, "epochs": 1, "batch_rows": 1, "learning_rate": 1.0, **WHERE}
    console("plan", {**plan, **changes})
    stream.seek(0)
    stream.truncate()
    return console, stream


RESULT = {"run": "r", "steps": 9, "best_step": 2, "stopped_early": False, "seconds": 1.0, "metrics": {"val_loss": 0.9}}


def test_alarms_are_told_with_what_to_do() -> None:
    """An alarm takes a line and what to do another, two in all; the last lines of the run name them."""
    console, stream = hearing()
    for number in range(6):
        console("alarm", alarm(number, name=f"name-{number}"))
    told = [{"severity": "warning", "name": "spike"}] * 5 + [{"severity": "error", "name": "overfit"}]
    console("done", {**RESULT, "alarms": told})
    lines = stream.getvalue().splitlines()
    assert lines[0] == "alarm     warning, name-0 before training: The loss jumped."
    assert lines[1] == "          Look at the rows."
    assert len([line for line in lines if "jumped" in line or "Look" in line]) == MAX_ALARM_LINES
    said = "1 error (overfit), 5 warnings (spike): what they mean and what to do is in the report"
    assert lines[MAX_ALARM_LINES] == f"alarms    {said}"


def test_lines_of_alarms_go_to_the_first() -> None:
    """Infos and repeats are only counted, and so is what comes when the lines are used up."""
    console, stream = hearing()
    console("alarm", alarm(1, "info"))
    for number in (2, 3):
        console("alarm", alarm(number))
    console("alarm", alarm(4, "error"))
    console("alarm", alarm(5, name="another"))
    assert stream.getvalue().splitlines() == [
        "alarm     warning, spike at step 2: The loss jumped.",
        "          Look at the rows.",
    ]


def test_best_follows_the_run() -> None:
    """The mark `best` stands where the run says so just before, whatever the figures look like."""
    console, stream = hearing(metric="val_exact_match")
    for number, (loss, exact) in enumerate(((3.0, 0.0), (1.0, 0.5), (0.9, 0.5), (0.8, 0.6))):
        if number in (1, 2):
            console("best", {"step": number, "metric": "val_exact_match", "value": exact})
        console("valid", ValidRecord(number, loss, 0.25, 9.0, 10, 500, exact))
    lines = stream.getvalue().splitlines()
    assert ["best" in line for line in lines[1:]] == [True, True, False]
    assert "val_accuracy 25.0 %  val_exact_match 50.0 %  best" in lines[1]
    console("done", RESULT)
    last = "validation loss 3.000 before, 0.900 at step 2, the best by val_exact_match (50.0 %)"
    assert stream.getvalue().splitlines()[-2].endswith(last)


def test_scores_of_answers_are_told_where_they_choose() -> None:
    """The score that chooses the best step stands beside its validation's loss, and only beside that one."""
    console, stream = hearing(metric="field_accuracy")
    for number, score in enumerate((0.0, 0.25)):
        console("scores", {"json_valid": 1.0, "field_accuracy": score})
        console("valid", valid(number, 2.0))
    console("valid", valid(2, 2.0))
    lines = stream.getvalue().splitlines()
    assert "val_accuracy 25.0 %  field_accuracy 0.0 %  (10 held-out rows" in lines[0]
    assert "val_accuracy 25.0 %  field_accuracy 25.0 %" in lines[1]
    assert "json_valid" not in stream.getvalue()
    assert "field_accuracy" not in lines[2]


def test_a_resumed_run_says_no_more_than_it_heard() -> None:
    """Where the base model and the best step came before the resume, the last line leaves their figures out."""
    console, stream = hearing(metric="val_accuracy")
    console("valid", valid(3, 2.0))
    assert stream.getvalue().count("val_accuracy") == 1
    console("done", RESULT)
    assert "9 steps, 1.0 s; validation loss 0.900 at step 2, the best by val_accuracy\n" in stream.getvalue()


def test_reworded_rows_are_counted() -> None:
    """Reworded rows and their tokens are named beside what came in, and shares are of all of them."""
    ledger = Ledger(
        rows=100,
        counts={"used": 100},
        tokens_in=2000,
        tokens_learned=1500,
        tokens_context=1500,
        augmented=50,
        tokens_augmented=1000,
    )
    lines = dict(data_lines(prepared(ledger=ledger)))
    assert lines["rows"].startswith("90 to train on, 50 of them reworded, 10 held out")
    assert lines["tokens"] == "2,000 and 1,000 in reworded rows, 1,500 learned (50.0 %)"
