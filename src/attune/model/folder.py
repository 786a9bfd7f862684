"""Model folders: finding one, and refusing what is not a safe model, before torch is imported."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from attune.errors import ConfigError, ModelError

_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt", "LICENSE*"]


def locate(model: str) -> Path:
    """Return the local folder of `model`: itself if it is one, else the Hub snapshot of that id, downloaded if need be.

    Raises ModelError when there is no such folder or id, or the folder holds no model that can be loaded safely.
    """
    if not model:
        raise ConfigError("model: which model? Give a local folder or a Hub id: --model FOLDER")
    folder = Path(model)
    if not folder.is_dir():
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", model) or (folder.parent.is_dir() and model.startswith((".", "/"))):
            what = "is a file, not a model folder" if folder.is_file() else "is not a folder"
            raise ModelError(f"{model} {what}, nor a Hub id such as owner/name.{_models_near(folder)}")
        folder = _download(model)
    check_folder(folder)
    return folder


def full_name(model: str) -> str:
    """Return a model's name as it holds everywhere on this machine: a folder with its whole path, a Hub id as it is."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def _models_near(folder: Path) -> str:
    """Name the model folders beside a path that does not exist."""
    parent = folder.parent
    found = sorted(p.parent.name for p in parent.glob("*/config.json")) if parent.is_dir() else []
    return f" In {parent} there are: {', '.join(found[:6])}." if found else ""


def _download(model: str) -> Path:
    """Return the local snapshot of a Hub id; without a network, what the cache holds."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=_HUB_FILES))
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"{model}: no folder of that name here, not in the local cache, and the Hub cannot be reached.\n"
            "Give a local folder."
        ) from error
    except (HfHubHTTPError, OSError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{model}: the Hub refused: {first[:200]}. Check the id, or log in with HF_TOKEN.") from error


def check_folder(folder: Path) -> None:
    """Raise ModelError unless `folder` holds a config and real safetensors weights inside itself."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} holds no config.json, so it is not a model.{_models_near(folder / 'x')}")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickles = [p.name for p in (*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth"))]
        why = (
            f"only pickle weights ({pickles[0]}); they can run code. Convert them to safetensors first"
            if pickles
            else "no *.safetensors weights"
        )
        raise ModelError(f"{folder}: {why}.")
    for file in weights:
        _check_weights(file)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        for name in _weight_files(index):
            if Path(name).name != name:
                raise ModelError(f'{index}: names a file outside the model folder ("{name}"): refused.')
            if not (folder / name).is_file():
                raise ModelError(
                    f"{folder}: {name} is missing, though {index.name} lists it. Download the model again."
                )


def _check_weights(file: Path) -> None:
    """Raise ModelError for a file that only looks like weights."""
    with file.open("rb") as stream:
        head = stream.read(64)
    if head.startswith(b"version https://git-lfs"):
        raise ModelError(f"{file} is a Git LFS pointer ({file.stat().st_size} bytes), not weights: git lfs pull.")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise ModelError(f"{file} is a web page, not weights. Download the model again.")
    length = int.from_bytes(head[:8], "little")
    if len(head) < 9 or not 2 <= length <= file.stat().st_size - 8 or head[8:9] != b"{":
        raise ModelError(
            f"{file} is damaged or not a safetensors file ({file.stat().st_size} bytes). Download the model again."
        )
    try:
        entries = _entries(file)
        end = max((int(entry["data_offsets"][1]) for entry in entries), default=0)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{file} is damaged: its header cannot be read. Download the model again.") from None
    wanted, found = 8 + length + end, file.stat().st_size
    if found != wanted:
        raise ModelError(
            f"{file} is cut off or damaged: {found:,} bytes, its header says {wanted:,}. Download the model again."
        )


def _weight_files(index: Path) -> list[str]:
    """Return the files that an index of weights names. Raises ModelError when it cannot be read."""
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return sorted(map(str, names))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{index} is damaged: it maps no weights to files. Download the model again.") from None


def _entries(file: Path) -> list[dict[str, Any]]:
    """Return the entries of a safetensors header: dtype, shape and place of every tensor."""
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return [entry for name, entry in header.items() if name != "__metadata__"]


def count_parameters(folder: Path) -> int:
    """Return the number of parameters stored in a model folder, from the headers of its safetensors files."""
    return sum(math.prod(entry["shape"]) for file in sorted(folder.glob("*.safetensors")) for entry in _entries(file))


def check_vocabulary(folder: Path, largest_id: int) -> None:
    """Raise ModelError when the rows hold a token id that the model has no embedding for."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    size = config.get("vocab_size", (config.get("text_config") or {}).get("vocab_size"))
    if isinstance(size, int) and largest_id >= size:
        raise ModelError(
            f"{folder}: the tokenizer makes token id {largest_id}, but the model has {size:,} tokens (vocab_size).\n"
            "Tokenizer and model do not belong together: fetch tokenizer.json and config.json from one place."
        )


def model_length(folder: Path) -> int | None:
    """Return how many positions the model can attend to, or None if its config does not say."""
    config = json.loads((folder / "config.json").read_text())
    for key in ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"):
        if isinstance(config.get(key), int):
            return int(config[key])
    return None
