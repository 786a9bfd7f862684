"""`attune report`: one HTML file with everything about a run."""

from __future__ import annotations

from attune.cli.options import Json, RunArgument


def report(run: RunArgument, *, json: Json = False) -> None:
    """Write one HTML file about a run, report.html.

    It stands in the run folder, needs no network and can be passed on as it is.
    """
    from attune.cli.screen import Screen, next_line
    from attune.record import RunFolder
    from attune.show.report import write_report

    with Screen(json=json) as screen:
        path = write_report(RunFolder.open(run).path)
        screen.finish({"run": run, "report": str(path)}, [f"report    {path}", next_line("chat", run, "--compare")])
