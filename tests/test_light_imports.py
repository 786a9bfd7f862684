"""Light modules stay light: each is imported in a process of its own, and torch must not come along."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"
HEAVY = ("torch", "transformers", "peft", "datasets")
HELP_SECONDS = 0.3


def light_modules() -> list[str]:
    """Return the modules that promise not to bring torch: the face, the ground, cli.main, data but batch, show."""
    names = ["attune", "attune.types", "attune.errors", "attune.record", "attune.train.run", "attune.train.check"]
    names += [f"attune.{path.stem}" for path in sorted((SOURCE / "attune").glob("config*.py"))]
    for room in ("cli", "data", "show"):
        files = sorted((SOURCE / "attune" / room).glob("*.py"))
        names += [f"attune.{room}.{path.stem}" for path in files if path.stem not in ("__init__", "batch")]
    return names


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run Python code against this checkout."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)


def test_light_modules_do_not_bring_torch() -> None:
    """One process imports them one after the other and says which brought something heavy."""
    code = (
        "import importlib, sys\n"
        f"for name in {light_modules()!r}:\n"
        "    importlib.import_module(name)\n"
        f"    for heavy in {HEAVY!r}:\n"
        "        if heavy in sys.modules:\n"
        "            sys.exit(f'{name} brings {heavy}')\n"
    )
    result = python(code)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["--version"]])
def test_help_brings_nothing_heavy(words: list[str]) -> None:
    """Help needs neither torch nor, at the top, the schema's library."""
    light = (*HEAVY, "pydantic", "numpy", "rich") if words == ["--help"] else HEAVY
    found = f"print(sorted({set(light)!r} & set(sys.modules)))"
    result = python(f"import sys; from attune.cli.main import main; main({words!r}); {found}")
    assert result.stdout.splitlines()[-1] == "[]", result.stdout + result.stderr


def test_help_is_quick() -> None:
    """`attune --help` takes less than 0.3 s more than Python itself needs to start; the best of five counts."""

    def seconds(code: str) -> float:
        start = time.perf_counter()
        assert python(code).returncode == 0
        return time.perf_counter() - start

    empty = min(seconds("pass") for _ in range(5))
    help_page = min(seconds("from attune.cli.main import main; main(['--help'])") for _ in range(5))
    assert help_page - empty < HELP_SECONDS
