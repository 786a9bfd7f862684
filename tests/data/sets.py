"""Sets of small rows as files, and what a preparation with a tokenizer of bytes makes of them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from attune.config import Config
from attune.data.encoding.tokenizer import load_tokenizer
from attune.data.prepare import Prepared, prepare
from tests.data.bad_inputs import write_tokenizer
from tests.data.duplicates.rows import prose


def pair(question: str, answer: str, **more: Any) -> dict[str, Any]:
    """Return a row of a question, its answer and other columns."""
    return {"prompt": question, "completion": answer, **more}


def pairs(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Return rows that have next to no words in common."""
    rng = random.Random(seed)
    return [pair(prose(rng, 6), prose(rng, 4)) for _ in range(count)]


def alike(groups: int, *, of: int = 3, seed: int = 0) -> list[dict[str, Any]]:
    """Return rows in groups: those of a group stand side by side and differ in one word of the answer."""
    rng = random.Random(seed)
    rows = []
    for _ in range(groups):
        question, answer = prose(rng, 12), prose(rng, 25)
        rows += [pair(question, f"{answer} {prose(rng, 1)}") for _ in range(of)]
    return rows


def chat(*turns: tuple[str, str, dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Return a row of messages from (role, content, other keys)."""
    return {"messages": [{"role": role, "content": content, **keys} for role, content, keys in turns], **more}


def write_set(path: Path, rows: Iterable[Any]) -> str:
    """Write rows as JSONL and return the file's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return str(path)


def settings_of(train: Any, **values: Any) -> Config:
    """Return a config of training rows and dotted settings that holds no row out unless it says so."""
    return Config().with_values({"data.train": train, "data.valid_share": 0.0, **values})


def prepare_config(config: Config, folder: Path) -> Prepared:
    """Return the rows of a config prepared with a tokenizer of bytes that is written to a folder."""
    return prepare(config, load_tokenizer(write_tokenizer(folder / "tokenizer")), model_length=None)


def write_model_head(folder: Path) -> Path:
    """Write what a run reads of a model before it loads one: tokenizer, config and the weights' header."""
    write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps({"vocab_size": 258, "max_position_embeddings": 512}))
    header = json.dumps({"weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    return folder
