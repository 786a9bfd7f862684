"""A checkpoint is complete or absent, and a damaged one is never taken for a good one."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from attune.config import TrainConfig
from attune.errors import CheckpointError, ResourceError
from attune.train import checkpoint
from attune.train.optim import build_optimizer
from tests.tiny import make_model

FILES = ("weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


@pytest.fixture
def trained() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A model after one update, so that its optimizer has state."""
    model = make_model(dtype=torch.float32)
    optimizer = build_optimizer(model, TrainConfig())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return model, optimizer


def save(folder: Path, step: int, trained: tuple[torch.nn.Module, torch.optim.Optimizer]) -> Path:
    """Save a checkpoint of that step."""
    return checkpoint.save(folder, step, model=trained[0], optimizer=trained[1], state={"flos": 1.5})


def test_what_was_saved_comes_back(tmp_path: Path, trained: tuple[torch.nn.Module, torch.optim.Optimizer]) -> None:
    """Weights, optimizer state and progress are the same after loading into a fresh model."""
    save(tmp_path, 3, trained)
    fresh = make_model(dtype=torch.float32, seed=9)
    optimizer = build_optimizer(fresh, TrainConfig())
    found = checkpoint.find_newest(tmp_path)
    assert found is not None and (found.step, found.state["flos"]) == (3, 1.5)
    checkpoint.restore(found, model=fresh, optimizer=optimizer)
    for mine, other in zip(trained[0].parameters(), fresh.parameters(), strict=True):
        assert torch.equal(mine, other)
        assert all(torch.equal(trained[1].state[mine][key], value) for key, value in optimizer.state[other].items())


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "remove"])
def test_damage_is_found_and_the_older_one_used(
    tmp_path: Path, trained: tuple[torch.nn.Module, torch.optim.Optimizer], file: str, damage: str
) -> None:
    """One flipped bit, a cut, an empty or a missing file: the newest is set aside and the one before it loads."""
    save(tmp_path, 1, trained)
    path = save(tmp_path, 2, trained) / file
    data = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data) if damage == "flip" else bytes(data[: len(data) // 2]) if damage == "cut" else b"")
    found = checkpoint.find_newest(tmp_path)
    if file == "manifest.json" and damage == "flip":  # the flip may hit a part of the manifest that nothing depends on
        assert found is not None and found.step in (1, 2)
        return
    assert found is not None and found.step == 1
    assert not (tmp_path / "step-2").exists() and list(tmp_path.glob(".bad-step-2-*"))
    assert save(tmp_path, 2, trained).is_dir(), "reaching the damaged step again must work"


def test_never_from_zero_in_silence(tmp_path: Path, trained: tuple[torch.nn.Module, torch.optim.Optimizer]) -> None:
    """When every checkpoint is damaged the run refuses, now and the next time; without any there is simply none."""
    assert checkpoint.find_newest(tmp_path) is None
    (save(tmp_path, 1, trained) / "weights.safetensors").write_bytes(b"x")
    for _ in range(2):
        with pytest.raises(CheckpointError, match="no intact checkpoint is left"):
            checkpoint.find_newest(tmp_path)


@pytest.mark.parametrize(
    ("owner", "call"),
    [(os, "write"), (os, "fsync"), (Path, "replace"), (Path, "rename")],
    ids=["write", "fsync", "replace", "rename"],
)
def test_a_crash_at_any_point_leaves_it_absent_or_complete(
    tmp_path: Path,
    trained: tuple[torch.nn.Module, torch.optim.Optimizer],
    owner: Any,
    call: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whichever write, flush or rename fails, the older checkpoint stays the newest intact one; a new try succeeds."""
    save(tmp_path, 1, trained)
    real, count, fail_at = getattr(owner, call), 0, 0

    def failing(*args: object, **options: object) -> object:
        nonlocal count
        count += 1
        if count == fail_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **options)

    reached = 0
    while fail_at < 20:
        count, fail_at = 0, fail_at + 1
        with monkeypatch.context() as patch:
            patch.setattr(owner, call, failing)
            try:
                save(tmp_path, 2, trained)
            except (ResourceError, OSError):
                reached += 1
            else:
                break
        found = checkpoint.find_newest(tmp_path)
        assert found is not None and found.step in (1, 2)
        checkpoint.prune(tmp_path, keep=1, best_step=1)
        if found.step == 2:  # only the flush after the rename failed: it is complete
            break
    assert reached >= 1
    save(tmp_path, 2, trained)
    assert checkpoint.open_checkpoint(tmp_path / "step-2").step == 2


def test_pruning_keeps_the_newest_and_the_best(
    tmp_path: Path, trained: tuple[torch.nn.Module, torch.optim.Optimizer]
) -> None:
    """Of five, the two newest and the best stay; leftovers of killed saves go."""
    for step in (1, 2, 3, 4, 5):
        save(tmp_path, step, trained)
    (tmp_path / ".tmp-step-9-1").mkdir()
    checkpoint.prune(tmp_path, keep=2, best_step=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-2", "step-4", "step-5"]
