"""`attune plan`: will it fit, and how long will it take?"""

from __future__ import annotations

from typing import Annotated

import typer

from attune.cli.options import Allow, ConfigFile, Ignore, Json, read_settings, words_of

NoMeasure = Annotated[bool, typer.Option("--no-measure", help="Only estimate: compute no step.")]


def plan(
    context: typer.Context,
    *,
    config: ConfigFile = None,
    allow: Allow = None,
    ignore: Ignore = None,
    no_measure: NoMeasure = False,
    json: Json = False,
) -> None:
    """Say whether a training fits into memory and how long it takes.

    Takes what attune train takes: attune plan rows.jsonl --model FOLDER

    Estimates, then computes the largest step and a few usual ones, and chooses train.micro_tokens and
    train.checkpointing where they are auto. Nothing is written.
    """
    settings = read_settings(context, config, {"data.allow": words_of(allow), "data.ignore": ignore})
    import shlex

    from attune.cli.screen import Screen
    from attune.errors import ResourceError
    from attune.show.plan_lines import plan_lines
    from attune.train.plan import plan as make_plan

    words = [*context.args, *(["--config", config] if config else [])]
    words += [word for each in allow or () for word in ("--allow", each)] + (["--ignore", ignore] if ignore else [])
    with Screen(json=json) as screen:
        document = make_plan(settings, measuring=not no_measure, on_event=screen.console)
        screen.finish(document, plan_lines(document, shlex.join(words)))
    if not document["fits"]:
        raise typer.Exit(ResourceError.exit_code)
