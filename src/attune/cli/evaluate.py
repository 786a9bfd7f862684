"""`attune eval`: did it help? Base and tuned model on the same rows."""

from __future__ import annotations

from typing import Annotated

import typer

from attune.cli.options import Json, RunArgument

Data = Annotated[
    str | None, typer.Option("--data", metavar="FILE", help="Rows to score; without it, the run's held-out rows.")
]
Schema = Annotated[str | None, typer.Option("--schema", metavar="FILE", help="JSON Schema that answers must obey.")]
Tokens = Annotated[
    int | None, typer.Option("--max-new-tokens", min=1, help="Longest answer in tokens; else by the references.")
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Score only this many rows, evenly spread.")]
Name = Annotated[str, typer.Option("--name", help="Name of the result in the run folder: eval/NAME.json.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the intervals.")]


def evaluate(
    run: RunArgument,
    *,
    data: Data = None,
    schema: Schema = None,
    max_new_tokens: Tokens = None,
    limit: Limit = None,
    name: Name = "eval",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Compare the tuned model with its base.

    Both answer the same rows; the result is a table of metrics, paired intervals and a verdict in words.
    """
    from attune.cli.screen import Screen, next_line
    from attune.evals.evaluate import evaluate as evaluate_run
    from attune.show.summary import evaluation_lines

    with Screen(json=json) as screen:
        document = evaluate_run(
            run,
            data=data,
            schema=schema,
            max_new_tokens=max_new_tokens,
            limit=limit,
            name=name,
            seed=seed,
            on_event=screen.console,
        )
        screen.finish(document, [*evaluation_lines(document), next_line("report", run)])
