"""`attune resume`: go on where a run stopped."""

from __future__ import annotations

from attune.cli.options import Json, RunArgument


def resume(run: RunArgument, *, json: Json = False) -> None:
    """Go on with a stopped or killed run.

    On a CPU it ends in the same bits as if it had never stopped.
    """
    from attune.cli.screen import Screen
    from attune.train.run import resume as resume_run

    with Screen(json=json) as screen:
        document = resume_run(run, on_event=screen.console).result
        screen.finish(document, [f"next      attune eval {run}"])
