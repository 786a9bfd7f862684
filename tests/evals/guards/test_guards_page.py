"""The page of the guards is made from the code, and tells everything that is in it."""

from __future__ import annotations

import re
import runpy
from dataclasses import fields
from pathlib import Path

from attune.evals.guards.catalog import GUARDS
from attune.evals.guards.thresholds import DEFAULT

CHECKOUT = Path(__file__).resolve().parents[3]
PAGE = (CHECKOUT / "docs" / "guards.md").read_text(encoding="utf-8")
GUARDS_FOLDER = CHECKOUT / "src" / "attune" / "evals" / "guards"


def test_guards_page_is_made_from_the_catalog() -> None:
    """docs/guards.md is what `make docs` would write."""
    assert runpy.run_path(str(CHECKOUT / "docs" / "make_guards.py"))["guards_page"]() == PAGE


def test_guards_page_has_every_threshold_and_every_threshold_is_used() -> None:
    """No number is left out of the page, and none is idle."""
    shown = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", PAGE, re.MULTILINE))
    assert shown == {field.name: str(getattr(DEFAULT, field.name)) for field in fields(DEFAULT)}
    code = "".join(path.read_text(encoding="utf-8") for path in GUARDS_FOLDER.glob("*.py"))
    assert [name for name in shown if not re.search(rf"(limits|thresholds)\.{name}\b", code)] == []


def test_guards_are_named_as_the_design_numbers_them() -> None:
    """All of G1 to G12 are there, and formulas name thresholds that exist."""
    assert {guard.id for guard in GUARDS.values()} == {f"G{number}" for number in range(1, 13)}
    named = {name for guard in GUARDS.values() for name in re.findall(r"`(\w+_\w+)`", guard.formula)}
    assert named <= {field.name for field in fields(DEFAULT)}


def test_every_guard_is_raised_somewhere() -> None:
    """A guard of the catalog that no code raises would be a promise not kept."""
    code = "".join(path.read_text(encoding="utf-8") for path in GUARDS_FOLDER.glob("*.py"))
    raised = set(re.findall(r'(?:make_alarm|_sum)\(\s*"([\w-]+)"', code))
    assert raised == set(GUARDS)
