"""Modules with one fault each, made on purpose: a comparison that finds nothing wrong with them proves nothing."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def mutant_of(module: ModuleType, folder: Path, *, old: str, new: str) -> ModuleType:
    """Return `module` with one place of its source changed; the changed file lies in `folder`."""
    text = Path(str(module.__file__)).read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{old!r} stands there {text.count(old)} times"
    path = folder / "mutant.py"
    path.write_text(text.replace(old, new), encoding="utf-8")
    plan = importlib.util.spec_from_file_location("mutant", path)
    assert plan is not None and plan.loader is not None
    mutant = importlib.util.module_from_spec(plan)
    sys.modules["mutant"] = mutant  # dataclasses look their module up
    plan.loader.exec_module(mutant)
    return mutant
