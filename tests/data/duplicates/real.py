"""Real data sets as examples, read plainly: what is tested here is not the reader."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from attune.types import Example
from tests.data.duplicates.rows import chat


def load(shared: Path, name: str) -> list[Example]:
    """The rows of a file as chats of one question."""
    path = shared / "data" / "sft" / name
    with path.open(encoding="utf-8", newline="") as file:
        if name.endswith(".csv"):
            return [chat(row["text"], row["category"]) for row in csv.DictReader(file)]
        rows = json.load(file) if name.endswith(".json") else [json.loads(line) for line in file]
    return [_chat(row) for row in rows]


def _chat(row: dict[str, Any]) -> Example:
    if "question" in row:
        return chat(row["question"], row["answer"])
    if "completion" in row:
        return chat(row["prompt"], row["completion"])
    extra = f"\n\n{row['input']}" if row.get("input") else ""
    return chat(row["instruction"] + extra, row["output"] if "output" in row else row["response"])
