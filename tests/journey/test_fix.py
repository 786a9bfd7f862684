"""The journey of a dirty file: checked, cleaned, checked again, with nothing left to fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attune.cli.main import main

pytestmark = pytest.mark.journey

ROWS = [
    ("Where is the station?", "The station is behind the town hall, next to the river."),
    ("where  is the STATION?", "The station is behind the town hall, next to the river."),
    ("Who are you?", "I am {{name}}, and I was made by {{author}}."),
    ("Is the museum open today?", ""),
    ("Which tram goes to the harbour?", "It\u00e2\u20ac\u2122s the blue one, which leaves every ten minutes."),
    ("How do I get a library card?", "Bring a letter with your address to the desk on the ground floor."),
    ("How much is a day ticket?", "A day ticket costs seven euros and is valid until three in the morning."),
]


def check(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    """Run `attune check --json` and return its exit code and document."""
    code = main(["check", *words, "--json"])
    document = json.loads(capsys.readouterr().out)
    assert isinstance(document, dict)
    return code, document


def test_a_cleaned_copy_passes_the_check_that_its_source_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--fix` writes the copy and its ledger; the copy is clean, and fixing it again gives the same bytes."""
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"question": question, "answer": answer}) + "\n" for question, answer in ROWS]
    Path("town.jsonl").write_text("".join(lines), "utf-8")
    Path("held.jsonl").write_text(lines[6], "utf-8")
    code, first = check(capsys, "town.jsonl", "--data.valid", "held.jsonl", "--fix", "clean.jsonl")
    assert (code, first["ok"]) == (3, False)
    fixed = first["fixed"]
    assert (fixed["rows"], fixed["kept"], fixed["dropped"], fixed["repaired"]) == (7, 2, 4, 1)
    assert fixed["settled"]
    assert fixed["reasons"] == {
        "dropped: duplicate": 1,
        "dropped: empty-answer": 1,
        "dropped: placeholder": 1,
        "dropped: split-leak": 1,
        "repaired: broken-characters": 1,
    }
    assert len(Path(fixed["ledger"]).read_text("utf-8").splitlines()) == 7
    code, again = check(capsys, "clean.jsonl", "--data.valid", "held.jsonl", "--fix", "second.jsonl")
    assert (code, again["ok"]) == (0, True)
    assert [finding["name"] for finding in again["findings"] if finding["severity"] != "info"] == []
    assert (again["fixed"]["kept"], again["fixed"]["reasons"]) == (3, {})
    assert Path("second.jsonl").read_bytes() == Path("clean.jsonl").read_bytes()


def test_a_copy_is_never_written_over_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name that is taken is refused with exit code 7, and the file that has it keeps its bytes."""
    monkeypatch.chdir(tmp_path)
    Path("town.jsonl").write_text(json.dumps({"question": "Where is it?", "answer": "Here."}) + "\n", "utf-8")
    before = Path("town.jsonl").read_bytes()
    assert main(["check", "town.jsonl", "--fix", "town.jsonl"]) == 7
    assert "is the file to be cleaned" in capsys.readouterr().err
    assert Path("town.jsonl").read_bytes() == before
