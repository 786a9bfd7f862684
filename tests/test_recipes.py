"""The configs in recipes/ are such as `attune train` takes, and their commands name what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from attune.config_file import load_config

CHECKOUT = Path(__file__).resolve().parents[1]
COMMAND = re.compile(r"^#     attune (?:train|plan) (\S+\.yaml)", re.MULTILINE)
FOUND = [path.relative_to(CHECKOUT) for path in sorted((CHECKOUT / "recipes").glob("*/*.yaml"))]
CONFIGS = [path for path in FOUND if path.parent.name != "tickets"]  # which hold words, not settings


def test_there_are_recipes() -> None:
    """The configs are found where they are looked for."""
    assert {path.name for path in CONFIGS} >= {"pretrain.yaml", "lora_8b.yaml", "full_1b.yaml"}


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_a_recipe_is_a_config(path: Path) -> None:
    """A recipe reads as a config without a fault, and opens with the command that runs it."""
    text = (CHECKOUT / path).read_text(encoding="utf-8")
    opening = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    assert set(COMMAND.findall(opening)) == {str(path)}
    config = load_config(CHECKOUT / path)
    assert config.model
    assert config.data.train


@pytest.mark.parametrize("name", ["lora_8b", "full_1b"])
def test_rows_of_a_recipe_come_with_attune(name: str) -> None:
    """The GPU recipes learn from files that are there."""
    data = load_config(CHECKOUT / "recipes" / "gpu" / f"{name}.yaml").data
    assert (CHECKOUT / str(data.train)).is_file()
    assert (CHECKOUT / data.valid).is_file()
