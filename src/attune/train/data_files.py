"""The files that a run's rows come from: their fingerprints, whether they changed, and what a run is called after."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attune.config import Config
from attune.data.files import list_files
from attune.data.reading.hub import is_hub
from attune.errors import RefusedError
from attune.record import RunFolder

BLOCK = 1 << 20  # bytes read at once


def data_files(config: Config) -> list[str]:
    """Return every file of the run's data: training, validation and test sets. Raises: DataError for a missing one."""
    return [file.path for file in list_files(config)]


def data_name(config: Config) -> str:
    """Return what the training rows are called in titles and folder names: the first source's own name."""
    train = config.data.train
    first = train if isinstance(train, str) else next(iter(train), "")
    path = first if isinstance(first, str) else first.path
    return Path(path).name or "rows"


def fingerprints(config: Config) -> list[dict[str, Any]]:
    """Return name, size and SHA-256 of every data file; a Hub set is named by its id alone."""
    return [_fingerprint(file) for file in data_files(config)]


def _fingerprint(file: str) -> dict[str, Any]:
    if is_hub(file):
        return {"file": file, "bytes": 0, "sha256": ""}
    digest = hashlib.sha256()
    with Path(file).open("rb") as opened:
        while block := opened.read(BLOCK):
            digest.update(block)
    return {"file": file, "bytes": Path(file).stat().st_size, "sha256": digest.hexdigest()}


def refuse_changes(run: RunFolder, manifest: Mapping[str, Any], config: Config) -> None:
    """Raise RefusedError when the data files are not those the run started from."""
    train = (
        [config.data.train]
        if isinstance(config.data.train, str)
        else [item if isinstance(item, str) else item.path for item in config.data.train]
    )
    named = [name for name in (*train, config.data.valid, *config.data.test) if name]
    missing = [name for name in named if not is_hub(name) and not Path(name).exists() and not set(name) & set("*?[")]
    if missing:
        raise RefusedError(f"{missing[0]} is gone, and the run needs it to go on. Restore it, then resume again.")
    before, after = manifest["data"]["files"], fingerprints(config)
    if len(before) != len(after):
        raise RefusedError(
            f"the run started from {len(before)} data files, and there are {len(after)} now: "
            "the result would mix two data sets.\n"
            f"Restore the files, or start a new run with another --out than {run.path}."
        )
    for then, now in zip(before, after, strict=True):
        if (then["bytes"], then["sha256"]) != (now["bytes"], now["sha256"]):
            raise RefusedError(
                f"{then['file']} changed since the run started ({then['bytes']:,} bytes then, {now['bytes']:,} now): "
                "the result would mix two data sets.\n"
                f"Restore the file, or start a new run with another --out than {run.path}."
            )


def free_folder(config: Config) -> Path:
    """Return the first free runs/DATA-MODEL-N."""
    stem = f"{Path(data_name(config)).stem or 'run'}-{Path(config.model).name}"
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip(".-_")[:70]
    number = 1
    while (Path("runs") / f"{stem}-{number}").exists():
        number += 1
    return Path("runs") / f"{stem}-{number}"
