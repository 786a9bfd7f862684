"""What travels with the package: the starter model and the task `tickets`, as folders of plain files."""

from __future__ import annotations

from pathlib import Path


def tickets_folder() -> Path:
    """The folder of the task `tickets`: train, valid, test and real_prompts (.jsonl) and schema.json."""
    return Path(__file__).parent / "tickets"


def starter_folder() -> Path:
    """The folder of the starter model, loadable by transformers as it is."""
    return Path(__file__).parent / "starter"
