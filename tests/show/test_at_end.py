"""The report comes at the end of a run: after success, a stop or a fault that is told, and never hides the fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from attune.errors import Interrupted, TrainingError, UserError
from attune.show.at_end import ReportAtEnd
from tests.show.run_folder import write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder without its report."""
    folder = write_run(tmp_path / "run")
    (folder / "report.html").unlink(missing_ok=True)
    return folder


def end_with(error: BaseException, run: Path) -> None:
    """Begin a run and end it with an error."""
    with ReportAtEnd() as report:
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


@pytest.mark.parametrize("error", [Interrupted("stopped"), TrainingError("NaN")])
def test_a_stop_or_a_fault_has_a_report_too(run: Path, error: UserError) -> None:
    """The page is written and the error goes on."""
    with pytest.raises(type(error), match=str(error)):
        end_with(error, run)
    assert (run / "report.html").is_file()


def test_the_fault_is_told_even_if_the_page_fails(run: Path) -> None:
    """A page that cannot be written does not take the place of what ended the run."""
    (run / "report.html").mkdir()
    with pytest.raises(TrainingError, match="NaN"):
        end_with(TrainingError("NaN"), run)


def test_nothing_is_written_for_a_run_without_a_folder_or_a_bug(run: Path) -> None:
    """A run that was refused before its plan has no page; a bug is left as it is."""
    with pytest.raises(TrainingError), ReportAtEnd():
        raise TrainingError("before the plan")
    with pytest.raises(ZeroDivisionError):
        end_with(ZeroDivisionError(), run)
    assert not (run / "report.html").exists()
