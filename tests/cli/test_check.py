"""`attune check`: rows, ledger, tokens and findings, and an exit code that says whether training could start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import attune
from attune.cli.main import main
from tests.tiny import write_model_folder, write_rows

BAD_ROWS = ['{"prompt": "a"', '{"prompt": "a", "completion": 3}', "42", '{"prompt": "a", "completion": ""}']


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model folder."""
    return write_model_folder(tmp_path_factory.mktemp("base"))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Forty good rows."""
    return write_rows(tmp_path / "rows.jsonl", 40)


def check(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any], list[str]]:
    """Run attune check twice; return exit code, document and lines for people."""
    capsys.readouterr()
    code = main(["check", *words, "--json"])
    document = json.loads(capsys.readouterr().out)
    assert main(["check", *words]) == code
    out, err = capsys.readouterr()
    lines = (out + err).splitlines()
    assert len(lines) <= 25
    return code, document, lines


def reconciles(document: dict[str, Any]) -> bool:
    """Return whether every row is in exactly one state."""
    return bool(sum(document["ledger"].values()) == document["rows"])


def test_good_rows(capsys: pytest.CaptureFixture[str], rows: Path) -> None:
    """Without a model rows are read and counted, and nothing is claimed about tokens."""
    code, document, lines = check(capsys, str(rows))
    assert (code, document["ok"], document["rows"], document["ledger"]["used"]) == (0, True, 40, 40)
    assert document["tokens"] == {"in": None, "learned": None, "lost": None}
    assert lines[-1] == f"next      attune train {rows} --model FOLDER"


def test_with_a_model_tokens_are_counted(capsys: pytest.CaptureFixture[str], rows: Path, base: Path) -> None:
    """With a model the ledger is that of training: some rows held out, tokens in, learned and lost."""
    code, document, lines = check(capsys, str(rows), "--model", str(base), "data.max_length=70")
    assert (code, document["ok"]) == (0, True)
    assert document["ledger"]["held_out"] > 0
    assert document["ledger"]["dropped"] > 0
    assert reconciles(document)
    tokens = document["tokens"]
    assert 0 < tokens["learned"] < tokens["in"]
    assert tokens["lost"] > 0
    assert "truncation" in [finding["name"] for finding in document["findings"]]
    assert lines[-1] == f"next      attune train {rows} --model {base} data.max_length=70"


@pytest.mark.parametrize("with_model", [False, True])
def test_every_bad_row_is_found_at_once(
    capsys: pytest.CaptureFixture[str], rows: Path, base: Path, with_model: bool
) -> None:
    """Bad rows are errors with file and line, one for each kind; the rest of the file is looked at all the same."""
    with rows.open("a") as file:
        file.write("\n".join(BAD_ROWS) + "\n")
    words = [str(rows), *(["--model", str(base)] if with_model else [])]
    code, document, lines = check(capsys, *words)
    assert (code, document["ok"], document["rows"], document["ledger"]["dropped"]) == (3, False, 44, 4)
    assert reconciles(document)
    errors = [finding for finding in document["findings"] if finding["severity"] == "error"]
    assert [error["examples"][0]["line"] for error in errors] == [41, 42, 43]
    assert all("data.skip_bad_rows = 3" in error["fix"] for error in errors)
    warnings = [finding["name"] for finding in document["findings"] if finding["severity"] == "warning"]
    assert warnings == ["empty-answer"]
    assert lines[-1] == "result    not fit to train on: mend the errors above"
    code, document, _ = check(capsys, *words, "data.skip_bad_rows=3")
    assert (code, document["ok"], document["ledger"]["dropped"]) == (0, True, 4)
    assert document == attune.check(rows, settings={"data.skip_bad_rows": 3}, **({"model": base} if with_model else {}))


def test_a_file_that_cannot_be_used(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """An empty file is told in one line; the document has its keys all the same."""
    path = tmp_path / "empty.jsonl"
    path.write_text("")
    code, document, lines = check(capsys, str(path))
    assert (code, document["ok"], document["rows"]) == (3, False, 0)
    assert len(lines) == 1
    assert document["findings"][0]["message"] == lines[0]


def test_rows_that_are_all_bad(capsys: pytest.CaptureFixture[str], rows: Path, base: Path) -> None:
    """When nothing is left after the bad rows, they are still what is told."""
    rows.write_text('{"prompt": "a", "completion": 3}\n' * 5)
    code, document, _ = check(capsys, str(rows), "--model", str(base))
    assert (code, document["rows"], document["ledger"]["dropped"]) == (3, 5, 5)
    assert document["findings"][0]["rows"] == 5


def test_no_file_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a file there is nothing to check."""
    assert main(["check"]) == 2
    assert capsys.readouterr().err == "which rows? Give a file: attune check DATA\n"
