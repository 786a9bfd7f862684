"""Checkpoints that are complete or absent: written beside, hashed in memory, flushed, renamed; verified when loaded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import safetensors.torch
import torch
import xxhash
from torch import Tensor, nn

from attune.errors import CheckpointError
from attune.model.adapter import load_weights, trainable_weights
from attune.record import json_text, write_atomic
from attune.train.optim import load_optimizer, optimizer_tensors

FORMAT = 1
_WEIGHTS, _OPTIMIZER, _STATE, _MANIFEST = "weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint: its step, its folder and the run's state at that step."""

    step: int
    folder: Path
    state: Mapping[str, Any]


def save(
    folder: Path, step: int, *, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> Path:
    """Write `folder`/step-N whole or not at all and return its path; an intact one of that step is kept.

    Raises ResourceError when the disk is full.
    """
    final = folder / f"step-{step}"
    if final.is_dir():
        if _fault(final) is None:
            return final
        _set_aside(final)
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f".tmp-step-{step}-{os.getpid()}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    files = {
        _WEIGHTS: safetensors.torch.save(_on_host(trainable_weights(model))),
        _OPTIMIZER: safetensors.torch.save(_on_host(optimizer_tensors(optimizer, model))),
        _STATE: json_text({**state, "step": step}).encode(),
    }
    try:
        for name, data in files.items():
            write_atomic(beside / name, data)
        entries = {
            name: {"bytes": len(data), "xxh3_128": xxhash.xxh3_128_hexdigest(data)} for name, data in files.items()
        }
        write_atomic(
            beside / _MANIFEST,
            json_text({"format": FORMAT, "step": step, "torch": torch.__version__, "files": entries}).encode(),
        )
        _sync(beside)
        beside.rename(final)
        _sync(folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return final


def find_newest(folder: Path) -> Checkpoint | None:
    """Return the newest intact checkpoint, or None if there never was one; damaged ones are set aside as .bad-*.

    Raises CheckpointError when there are checkpoints and all are damaged: a run never starts again from 0 in silence.
    """
    found = (
        sorted(folder.glob("step-*"), key=lambda p: int(p.name.removeprefix("step-")), reverse=True)
        if folder.is_dir()
        else []
    )
    faults = []
    for path in found:
        fault = _fault(path)
        if fault is None:
            return open_checkpoint(path)
        faults.append(f"{path.name}: {fault}")
        _set_aside(path)
    if faults or (folder.is_dir() and any(folder.glob(".bad-*"))):
        listed = "; ".join(faults[:3]) or "all were set aside before (.bad-*)"
        raise CheckpointError(f"{folder}: no intact checkpoint is left. {listed}.\nStart a new run with another --out.")
    return None


def open_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint at `path`. Raises CheckpointError when a file is missing, changed or cut."""
    fault = _fault(path)
    if fault is not None:
        raise CheckpointError(f"{path}: {fault}.")
    state = orjson.loads((path / _STATE).read_bytes())
    return Checkpoint(int(state["step"]), path, state)


def restore(checkpoint: Checkpoint, *, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Put the checkpoint's weights, and its optimizer state if an optimizer is given, back where they were."""
    load_weights(model, safetensors.torch.load((checkpoint.folder / _WEIGHTS).read_bytes()))
    if optimizer is not None:
        load_optimizer(optimizer, model, safetensors.torch.load((checkpoint.folder / _OPTIMIZER).read_bytes()))


def prune(folder: Path, *, keep: int, best_step: int) -> None:
    """Delete all but the newest `keep` checkpoints and the best one, and what crashed saves left behind."""
    steps = sorted((int(p.name.removeprefix("step-")) for p in folder.glob("step-*")), reverse=True)
    for step in steps[keep:]:
        if step != best_step:
            gone = folder / f".del-step-{step}"
            (folder / f"step-{step}").rename(
                gone
            )  # a deletion that is killed must not leave half a checkpoint under its name
            shutil.rmtree(gone)
    for left in (*folder.glob(".tmp-*"), *folder.glob(".del-*")):
        shutil.rmtree(left, ignore_errors=True)


def _on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _fault(path: Path) -> str | None:
    """Say what is wrong with a checkpoint folder, or None: every file's size and hash is compared with the manifest."""
    try:
        manifest = orjson.loads((path / _MANIFEST).read_bytes())
        for name, entry in manifest["files"].items():
            data = (path / name).read_bytes()
            if len(data) != entry["bytes"]:
                return f"{name} has {len(data):,} bytes, {entry['bytes']:,} were written"
            if xxhash.xxh3_128_hexdigest(data) != entry["xxh3_128"]:
                return f"{name} is not what was written (its hash differs)"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "manifest.json is damaged"
    return None


def _set_aside(path: Path) -> None:
    """Rename a damaged checkpoint so that it is never taken for a good one and can still be looked at."""
    number = 0
    while (path.parent / f".bad-{path.name}-{number}").exists():
        number += 1
    path.rename(path.parent / f".bad-{path.name}-{number}")


def _sync(folder: Path) -> None:
    """Flush a folder's list of names to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
