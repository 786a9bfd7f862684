"""`attune resume`: go on where a run stopped."""

from __future__ import annotations

from attune.cli.options import Json, RunArgument


def resume(run: RunArgument, *, json: Json = False) -> None:
    """Go on with a stopped or killed run.

    On a CPU it ends in the same bits as if it had never stopped.
    """
    from attune.cli.screen import Screen, next_after_training
    from attune.show.at_end import ReportAtEnd
    from attune.train.run import resume as resume_run

    with Screen(json=json) as screen:
        with ReportAtEnd(screen.console) as report:
            document = resume_run(run, on_event=report).result
        screen.finish(document, [report.line, next_after_training(run, document)])
