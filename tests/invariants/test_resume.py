"""A run that was interrupted at any step ends in the same bits as one that was not (CPU)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from attune.config import Config
from attune.train.run import finetune, resume
from tests.tiny import write_model_folder, write_rows

STEPS = 7  # of 4 rows over 11 training rows: two epoch ends lie inside


def start(folder: Path, **settings: Any) -> Path:
    """Run to the end with a checkpoint at every step, and return the run folder."""
    base = write_model_folder(folder / "base", dropout=0.2)
    rows = write_rows(folder / "rows.jsonl", 11)
    valid = write_rows(folder / "valid.jsonl", 3, seed=1)
    config = Config(model=str(base), out=str(folder / "straight"), seed=3, device="cpu").with_values(
        {
            "data.train": str(rows),
            "data.valid": str(valid),
            "train.steps": STEPS,
            "train.batch_rows": 4,
            "train.micro_tokens": 64,
            "train.learning_rate": 0.01,
            "valid.every": 3,
            "checkpoint.every": 1,
            "checkpoint.keep": 100,
            **settings,
        }
    )
    return Path(finetune(config).folder)


def cut_back(straight: Path, step: int) -> Path:
    """Return a copy of a finished run as a kill during step `step + 1` would have left it."""
    copy = straight.with_name(f"cut-{step}")
    shutil.copytree(straight, copy)
    for checkpoint in (copy / "checkpoints").iterdir():
        if int(checkpoint.name.removeprefix("step-")) > step:
            shutil.rmtree(checkpoint)
    shutil.rmtree(copy / "model")
    result = json.loads((copy / "result.json").read_text())
    (copy / "result.json").write_text(json.dumps(result | {"status": "running"}))
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace(str(straight), str(copy)))
    return copy


def outcome(run: Path) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """Return the bytes of the tuned weights and every recorded number except clock and memory readings."""
    weights = {file.name: file.read_bytes() for file in (run / "model").glob("*.safetensors")}
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        for reading in ("time", "tokens_per_s", "memory_gb", "seconds"):
            record.pop(reading, None)
    return weights, records


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"adapter.kind": "lora", "adapter.rank": 4, "adapter.dropout": 0.3},
        {"train.batch_tokens": 200, "data.max_length": 120, "train.schedule": "wsd"},
    ],
    ids=["full", "lora", "batch_tokens"],
)
def test_resumed_at_any_step_equals_straight(tmp_path: Path, settings: dict[str, Any]) -> None:
    """With dropout, mid-epoch and across epochs, from every step: the same weights and metrics, bit for bit."""
    straight = start(tmp_path, **settings)
    expected = outcome(straight)
    assert expected[0], "the straight run wrote no weights"
    for step in range(STEPS):
        copy = cut_back(straight, step)
        resume(copy)
        weights, records = outcome(copy)
        assert weights == expected[0], f"weights differ after resuming at step {step}"
        assert records == expected[1], f"metrics differ after resuming at step {step}"


def test_the_comparison_sees_another_seed(tmp_path: Path) -> None:
    """The equality above is not empty: dropout with another seed gives other weights."""
    first = start(tmp_path)
    second = finetune(
        Config.model_validate({}).with_values(_config_of(first) | {"seed": 4, "out": str(tmp_path / "other")})
    )
    assert outcome(first)[0] != outcome(Path(second.folder))[0]


def _config_of(run: Path) -> dict[str, Any]:
    from attune.config_file import load_config

    tree = load_config(str(run / "config.yaml"), [], {}).model_dump()
    flat = {f"{s}.{k}": v for s, group in tree.items() if isinstance(group, dict) for k, v in group.items()}
    return flat | {key: value for key, value in tree.items() if not isinstance(value, dict)}
