"""What the tests of `attune check` share: a faulty row, and the verb run once with --json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attune.cli.main import main

CUT = {"prompt": "Who are you?", "completion": "I am {{name}}, and I was made by {{author}}."}


def add(path: Path, *rows: dict[str, Any]) -> None:
    """Append rows to a file."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def once(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    """Run attune check with --json: its exit code, and the one document on stdout."""
    capsys.readouterr()
    code = main(["check", *words, "--json"])
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, document


def severities(document: dict[str, Any]) -> dict[str, str]:
    """What was found: name -> severity."""
    return {finding["name"]: finding["severity"] for finding in document["findings"]}
