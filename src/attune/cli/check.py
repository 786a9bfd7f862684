"""`attune check`: is my data fit to train on?"""

from __future__ import annotations

import shlex

import typer

from attune.cli.options import ConfigFile, Json, read_settings


def check(context: typer.Context, *, config: ConfigFile = None, json: Json = False) -> None:
    """Say whether rows are fit to train on.

    Reads every row as training would and says which would be learned, and what is wrong: attune check rows.jsonl

    With --model FOLDER also tokens, lengths and the mask are checked.
    """
    settings = read_settings(context, config)
    from attune.cli.screen import Screen
    from attune.errors import DataError
    from attune.show.summary import check_lines
    from attune.train.check import check_rows, unusable

    with Screen(json=json) as screen:
        try:
            document = check_rows(settings)
        except DataError as error:
            if not json:
                raise
            document = unusable(error)
        given = [*(["--config", config] if config else []), *context.args]
        model = "" if settings.model else " --model FOLDER"
        screen.finish(document, check_lines(document, f"attune train {shlex.join(given)}{model}"))
    if not document["ok"]:
        raise typer.Exit(DataError.exit_code)
