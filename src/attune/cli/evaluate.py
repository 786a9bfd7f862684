"""`attune eval`: did it help? Base and tuned model on the same rows."""

from __future__ import annotations

from typing import Annotated

import typer

from attune.cli.options import Json, RunArgument

Data = Annotated[
    str | None, typer.Option("--data", metavar="FILE", help="Rows to score; without it, the run's held-out rows.")
]
Tokens = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer in tokens.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Score only this many rows, evenly spread.")]


def evaluate(
    run: RunArgument, *, data: Data = None, max_new_tokens: Tokens = 256, limit: Limit = None, json: Json = False
) -> None:
    """Compare the tuned model with its base.

    Both answer the same rows; the result is a table of metrics, paired intervals and a verdict in words.
    """
    from attune.cli.screen import Screen
    from attune.evals.evaluate import evaluate as evaluate_run
    from attune.record import RunFolder
    from attune.show.summary import evaluation_lines

    with Screen(json=json) as screen:
        folder = RunFolder.open(run).path
        document = evaluate_run(folder, data=data, max_new_tokens=max_new_tokens, limit=limit, on_event=screen.console)
        screen.finish(document, evaluation_lines(document, run))
