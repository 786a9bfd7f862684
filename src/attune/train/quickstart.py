"""The whole journey on what comes with attune: the starter model learns the tickets task, measured on new rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attune.bundled import starter_folder, tickets_folder
from attune.config import Config
from attune.evals.evaluate import evaluate
from attune.train.run import finetune

SETTINGS: dict[str, Any] = {
    "train.epochs": 1.3,
    "train.batch_rows": 4,  # many small steps: at this size they teach more per token than few large ones
    "train.learning_rate": 5e-4,
    "train.beta2": 0.99,
    "valid.every": 165,
}


def quickstart(
    out: str = "auto", *, on_event: Callable[[str, Any], None] | None = None, seed: int = 0
) -> dict[str, Any]:
    """Tune the starter model on the bundled tickets and compare it with itself before, on the test rows.

    Returns the document of `train` with the document of `eval` under "eval". Works offline on a laptop's CPU, in
    minutes.
    """
    tickets = tickets_folder()
    config = Config(model=str(starter_folder()), out=out, seed=seed, device="cpu").with_values(
        {"data.train": str(tickets / "train.jsonl"), "data.valid": str(tickets / "valid.jsonl"), **SETTINGS}
    )
    run = finetune(config, command="attune quickstart", on_event=on_event)
    compared = evaluate(
        run.folder,
        data=str(tickets / "test.jsonl"),
        schema=str(tickets / "schema.json"),
        name="test",
        on_event=on_event,
    )
    return {**run.result, "eval": compared}
