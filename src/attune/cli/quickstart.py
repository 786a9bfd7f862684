"""`attune quickstart`: the whole journey on the bundled model and task, offline."""

from __future__ import annotations

from typing import Annotated

import typer

from attune.cli.options import Json

Out = Annotated[str, typer.Option("--out", metavar="FOLDER", help="The run folder; auto: a new folder under runs/.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")]


def quickstart(*, out: Out = "auto", seed: Seed = 0, json: Json = False) -> None:
    """See it work on a bundled model and task.

    Checks the data, trains, compares base and tuned model and writes the report; offline, in minutes on a CPU.
    """
    from attune.cli.screen import Screen
    from attune.record import RunFolder
    from attune.show.at_end import ReportAtEnd
    from attune.show.summary import evaluation_lines, sample_lines
    from attune.train.quickstart import quickstart as run_quickstart

    with Screen(json=json) as screen:
        with ReportAtEnd(screen.console) as report:
            document = run_quickstart(out, on_event=report, seed=seed)
        folder = RunFolder.open(document["run"])
        samples = folder.read_lines(f"eval/{document['eval']['name']}.jsonl")
        lines = [*evaluation_lines(document["eval"]), *sample_lines(samples), report.line]
        path = str(report.path) if report.path else None
        screen.finish({**document, "report": path}, [*lines, f"next      attune chat {folder.path} --compare"])
