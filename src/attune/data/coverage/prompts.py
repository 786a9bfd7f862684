"""Real prompts beside the training prompts: read from any file, and held against what the survey sampled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attune.config import Config, DataConfig
from attune.data.coverage.mismatch import compare_prompts, find_mismatch
from attune.data.reading.read import BadRow, read_rows
from attune.data.reading.schema import rename_columns
from attune.data.reading.sources import open_sources
from attune.data.survey import Surveyed
from attune.errors import DataError
from attune.types import Finding, Place

TEXTS = ("prompt", "question", "instruction", "query", "input", "text")
TURNS = ("messages", "conversations", "prompt")
ASKING = ("user", "human")


def compare_with_file(surveyed: Surveyed, path: str, config: Config) -> tuple[dict[str, Any], Finding]:
    """Return the comparison of training prompts with the real ones of a file, as a document and as finding D11.

    Raises: DataError when a row of the file holds no prompt.
    """
    prompts, places = read_prompts(path, config.data)
    mismatch = compare_prompts(list(surveyed.questions), prompts, seed=config.seed)
    return mismatch.document(), find_mismatch(mismatch, places)


def read_prompts(path: str, config: DataConfig) -> tuple[list[str], list[Place]]:
    """Return the prompts of a file: the last question of its rows, which need no answer.

    Raises: DataError for a file that cannot be read and for the first row without a prompt.
    """
    prompts: list[str] = []
    places: list[Place] = []
    for source in open_sources(path):
        for row in read_rows(source.file, max_row_bytes=config.max_row_bytes):
            if isinstance(row, BadRow):
                raise DataError(f"{row.where} {row.text}.")
            prompt = _prompt_of(rename_columns(row.value, config.columns))
            if prompt is None:
                keys = ", ".join(map(str, row.value)) or "none"
                raise DataError(
                    f"{row.place} holds no prompt; its keys are: {keys}.\n"
                    f"Known: {', '.join(dict.fromkeys((*TEXTS, *TURNS)))}. Map yours: data.columns.prompt = ITS NAME"
                )
            prompts.append(prompt)
            places.append(row.place)
    return prompts, places


def _prompt_of(value: Mapping[str, Any]) -> str | None:
    """Return what a row asks; None if it asks nothing."""
    for key in TURNS:
        turns = value.get(key)
        if isinstance(turns, list):
            asked = [turn for turn in turns if isinstance(turn, dict) and _role(turn) in ASKING]
            content = asked[-1].get("content", asked[-1].get("value")) if asked else None
            return content if isinstance(content, str) else None
    for key in TEXTS:
        text = value.get(key)
        if isinstance(text, str):
            extra = value.get("input")
            return f"{text}\n\n{extra}" if key == "instruction" and isinstance(extra, str) and extra.strip() else text
    return None


def _role(turn: Mapping[str, Any]) -> Any:
    return turn.get("role", turn.get("from"))
