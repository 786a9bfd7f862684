"""`attune train`: the main job, from rows to a tuned model; with --dry-run only what would be done."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import typer

from attune.cli.options import Allow, ConfigFile, Ignore, Json, read_settings, words_of

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, print the resolved config with its reasons, and stop.")
]


def train(
    context: typer.Context,
    *,
    config: ConfigFile = None,
    allow: Allow = None,
    ignore: Ignore = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Tune a model on a file of rows, or as a config says.

    With a file of rows: attune train rows.jsonl --model FOLDER

    With a config: attune train config.yaml train.steps=50
    """
    settings = read_settings(context, config, {"data.allow": words_of(allow), "data.ignore": ignore})
    from attune.cli.screen import Screen, next_after_training
    from attune.config_file import dump_yaml
    from attune.show.at_end import ReportAtEnd
    from attune.train.run import finetune, gather

    if dry_run:
        with Screen(json=json, progress=sys.stderr) as screen:
            inputs = gather(settings, screen.console)
            reasons = {name: reason for name, (_, reason) in inputs.resolved.items()}
            document = {"config": inputs.config.model_dump(), "reasons": reasons}
            screen.finish(document, dump_yaml(inputs.config, reasons).splitlines())
        return
    with Screen(json=json) as screen:
        with ReportAtEnd(screen.console) as report:
            run = finetune(settings, command=shlex.join(["attune", *context.obj]), on_event=report)
        screen.finish(run.result, [report.line, next_after_training(run.folder, run.result)])
