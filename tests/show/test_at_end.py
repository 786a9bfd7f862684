"""The report follows a run: at validations, after success, a stop or a fault, and never hides or makes a fault."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from attune.errors import Interrupted, TrainingError
from attune.record import RunFolder
from attune.show.at_end import PAUSE_S, ReportAtEnd
from tests.show.run_folder import write_run


@dataclass
class Clock:
    """A clock that goes on by hand."""

    now: float = 0.0

    def __call__(self) -> float:
        """Return the time, in seconds."""
        return self.now


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder without its report."""
    return write_run(tmp_path / "run")


def end_with(error: BaseException, run: Path, heard: list[tuple[str, Any]]) -> None:
    """Begin a run and end it with an error."""
    with ReportAtEnd(lambda kind, payload: heard.append((kind, payload))) as report:
        report("plan", {"run": str(run)})
        raise error


def test_events_pass_through_and_the_report_is_written(run: Path) -> None:
    """The listener hears every event as it came; on leaving, the page stands in the folder that `plan` named."""
    heard: list[tuple[str, object]] = []
    with ReportAtEnd(lambda kind, payload: heard.append((kind, payload))) as report:
        report("note", "a")
        report("plan", {"run": str(run)})
        assert not (run / "report.html").exists()
    assert heard == [("note", "a"), ("plan", {"run": str(run)})]
    assert report.path == run / "report.html"
    assert report.path.is_file()


@pytest.mark.parametrize(
    "error", [Interrupted("stopped"), TrainingError("NaN"), KeyboardInterrupt(), ZeroDivisionError("bug")]
)
def test_a_stop_a_fault_or_a_bug_has_a_report_too(run: Path, error: BaseException) -> None:
    """The page is written and the error goes on."""
    with pytest.raises(type(error)):
        end_with(error, run, [])
    assert (run / "report.html").is_file()


def test_a_validation_rewrites_the_report(run: Path) -> None:
    """The page is there from the first validation on, and has a later one once the pause is over, not before."""
    clock, page = Clock(), run / "report.html"
    with ReportAtEnd(clock=clock) as report:
        report("plan", {"run": str(run)})
        report("recorded", str(run))
        first = page.read_bytes()
        RunFolder(run).append("metrics.jsonl", {"step": 290, "val_loss": 0.7531, "time": 200.0})
        report("recorded", str(run))
        assert page.read_bytes() == first
        clock.now += PAUSE_S
        report("recorded", str(run))
        assert b"0.753" in page.read_bytes()


def test_nothing_new_is_not_written_again(run: Path) -> None:
    """A report of files that did not change stays as it is."""
    with ReportAtEnd() as report:
        report("plan", {"run": str(run)})
        report("recorded", str(run))
        before = (run / "report.html").stat().st_mtime_ns
    assert (run / "report.html").stat().st_mtime_ns == before
    assert report.path == run / "report.html"


def test_a_page_that_fails_is_a_note(run: Path) -> None:
    """A page that cannot be written is told once, stops nothing, and does not take the place of what ended the run."""
    (run / "report.html").mkdir()
    heard: list[tuple[str, Any]] = []
    with ReportAtEnd(lambda kind, payload: heard.append((kind, payload))) as report:
        report("plan", {"run": str(run)})
        report("recorded", str(run))
    notes = [payload for kind, payload in heard if kind == "note"]
    assert len(notes) == 1
    assert "report.html was not written" in notes[0]
    assert report.path is None
    with pytest.raises(TrainingError, match="NaN"):
        end_with(TrainingError("NaN"), run, heard)


def test_a_run_without_a_folder_has_no_page(run: Path) -> None:
    """A run that was refused before its plan has no page."""
    with pytest.raises(TrainingError), ReportAtEnd() as report:
        raise TrainingError("before the plan")
    assert report.path is None
    assert not (run / "report.html").exists()


def test_a_killed_run_leaves_a_readable_report(run: Path) -> None:
    """A process that is killed between two validations leaves the page of the last one, whole, and it says so."""
    RunFolder(run).write_json("result.json", {"status": "running", "total_steps": 400})
    script = (
        "import os, signal, sys\n"
        "from attune.show.at_end import ReportAtEnd\n"
        "with ReportAtEnd() as report:\n"
        "    report('plan', {'run': sys.argv[1]})\n"
        "    report('recorded', sys.argv[1])\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(run)], env=os.environ, check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    text = (run / "report.html").read_text("utf-8")
    assert text.rstrip().endswith("</html>")
    assert "The run has not finished: the last record is step 282 of 400." in text
