"""The faulty tickets: made anew byte for byte, and `attune check` finds each planted fault and no other row."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from attune.bundled import tickets_folder

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "tickets" / "dirty.py"
FILES = ("tickets_dirty.jsonl", "tickets_dirty_planted.json")


def planted() -> list[dict[str, Any]]:
    """The list of faults."""
    listed: list[dict[str, Any]] = json.loads((tickets_folder() / FILES[1]).read_text(encoding="ascii"))
    return listed


def make(out: Path, *more: str) -> None:
    """Run the recipe."""
    subprocess.run([sys.executable, str(RECIPE), "--out", str(out), *more], check=True)


def test_recipe_reproduces_the_committed_files_byte_for_byte(tmp_path: Path) -> None:
    """The seed of the recipe writes exactly what travels in the package."""
    make(tmp_path)
    for file in FILES:
        assert (tmp_path / file).read_bytes() == (tickets_folder() / file).read_bytes(), file


def test_another_seed_plants_elsewhere(tmp_path: Path) -> None:
    """The comparison above can fail: the bytes depend on the seed."""
    make(tmp_path, "--seed", "1")
    for file in FILES:
        assert (tmp_path / file).read_bytes() != (tickets_folder() / file).read_bytes(), file


def test_rows_that_are_not_listed_are_rows_of_the_training_file() -> None:
    """Every line is either listed with its fault, once, or stands in train.jsonl as it is."""
    lines = (tickets_folder() / FILES[0]).read_text(encoding="ascii").splitlines()
    train = set((tickets_folder() / "train.jsonl").read_text(encoding="ascii").splitlines())
    faulty = [fault["line"] for fault in planted()]
    assert len(set(faulty)) == len(faulty) == len(lines) - 240
    for number, line in enumerate(lines, start=1):
        assert number in faulty or line in train, number
