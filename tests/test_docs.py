"""What the documents say is what the code does: verbs, exit codes, settings, links and the layout."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import typer

from attune import errors
from attune.cli.main import build_app
from attune.data.lint.thresholds import DEFAULT

CHECKOUT = Path(__file__).resolve().parents[1]
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "benchmarks/README.md",
    *[f"docs/{p.name}" for p in sorted((CHECKOUT / "docs").glob("*.md"))],
]


def test_settings_page_is_made_from_the_schema() -> None:
    """docs/config.md is what `make docs` would write."""
    made = runpy.run_path(str(CHECKOUT / "docs" / "make_config.py"))["config_page"]()
    assert (CHECKOUT / "docs" / "config.md").read_text(encoding="utf-8") == made


def test_rules_page_is_made_from_the_catalog() -> None:
    """docs/rules.md is what `make docs` would write."""
    made = runpy.run_path(str(CHECKOUT / "docs" / "make_rules.py"))["rules_page"]()
    assert (CHECKOUT / "docs" / "rules.md").read_text(encoding="utf-8") == made


def test_rules_page_has_every_threshold() -> None:
    """No field of the table of thresholds is left out of the page, and each has its value there."""
    page = (CHECKOUT / "docs" / "rules.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", page, re.MULTILINE))
    assert shown == {field.name: str(getattr(DEFAULT, field.name)) for field in fields(DEFAULT)}


def test_rules_page_has_every_finding_that_is_no_rule() -> None:
    """A finding with an id and a name of its own, anywhere in the code, has a line on the page, and no other has."""
    texts = [path.read_text(encoding="utf-8") for path in (CHECKOUT / "src").rglob("*.py")]
    call = re.compile(r'\b(?:Finding|_warning|_problem)\(\s*"(\w\d\d)", "([\w-]+)"')
    made = {found for text in texts for found in call.findall(text)}
    others = runpy.run_path(str(CHECKOUT / "docs" / "make_rules.py"))["OTHERS"]
    assert made == {(identity, name) for identity, name, _, _ in others}


def test_readme_lists_the_verbs_that_exist() -> None:
    """The table of verbs has all of them and no other."""
    command = typer.main.get_command(build_app())
    named = re.findall(r"^\| `attune (\w+)", README, re.MULTILINE)
    assert sorted(named) == sorted(command.commands)  # type: ignore[attr-defined]  # a group, by its verbs


def test_readme_lists_the_exit_codes() -> None:
    """Every exit code of an error a user can meet is in the table."""
    codes = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "exit_code")}
    named = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    assert codes | {0, 130} == named


def test_readme_shows_what_the_check_prints() -> None:
    """Each line of the README's example of `attune check` is printed by that very command, in that order."""
    block = re.search(r"^\$ attune (check .+)\n((?:.+\n)+)```", README, re.MULTILINE)
    assert block
    command = [sys.executable, "-m", "attune", *block[1].split()]
    printed = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False).stdout.splitlines()
    shown = block[2].splitlines()
    assert [line for line in printed if line in shown] == shown


def test_readme_layout_names_what_is_there() -> None:
    """Every file and folder of the layout exists, and every room of the package is in it."""
    block = README.split("src/attune/\n", 1)[1].split("```")[0]
    inner = [line.split()[0] for line in block.splitlines() if line.startswith("  ")]
    outer = [line.split()[0] for line in block.splitlines() if line and not line.startswith(" ")]
    missing = [name for name in inner if not (CHECKOUT / "src" / "attune" / name).exists()]
    missing += [name for name in outer if not (CHECKOUT / name).exists()]
    assert missing == []
    rooms = {path.name + "/" for path in (CHECKOUT / "src" / "attune").iterdir() if (path / "__init__.py").exists()}
    assert rooms <= set(inner)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """A link to a file of the project leads to one."""
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    targets = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert [link for link in targets if not (CHECKOUT / page).parent.joinpath(link).exists()] == []


def test_every_dependency_has_its_reason() -> None:
    """A package in pyproject.toml has a line in docs/dependencies.md and a pin in constraints.txt."""
    settings = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = \[(.*?)^\]", settings, re.DOTALL | re.MULTILINE)
    assert listed
    names = re.findall(r'^    "([\w-]+)', listed[1], re.MULTILINE)
    reasons = (CHECKOUT / "docs" / "dependencies.md").read_text(encoding="utf-8").lower()
    pins = (CHECKOUT / "constraints.txt").read_text(encoding="utf-8").lower().replace("_", "-")
    assert names
    assert [name for name in names if name.lower() not in reasons] == []
    assert [name for name in names if f"\n{name.lower().replace('_', '-')}==" not in pins] == []
