"""Real prompts beside the training prompts: read from any file, and held against what the survey sampled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attune.config import Config, DataConfig
from attune.data.coverage.mismatch import compare_prompts, find_mismatch
from attune.data.reading.read import BadRow, read_rows
from attune.data.reading.schema import read_turns, rename_columns
from attune.data.reading.sources import open_sources
from attune.data.survey import Surveyed
from attune.errors import DataError
from attune.types import Finding, Place

TEXTS = ("prompt", "question", "instruction", "query", "input", "text")
TURNS = ("messages", "conversations", "prompt")


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
            # real prompts may come from elsewhere, under the usual names: a mapping counts where its column is there
            columns = {name: own for name, own in config.columns.items() if not own or own in row.value}
            prompt = _prompt_of(rename_columns(row.value, columns))
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
        turns = read_turns(value.get(key))
        if turns is not None:
            return next((turn.content for turn in reversed(turns) if turn.role == "user"), None)
    for key in TEXTS:
        text = value.get(key)
        if isinstance(text, str):
            extra = value.get("input")
            if key != "instruction" or not isinstance(extra, str) or not extra.strip():
                return text
            return f"{text}\n\n{extra}" if text.strip() else extra
    return None
