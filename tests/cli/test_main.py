"""The door: exit codes, one document with --json, short messages, and no traceback unless asked for."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

import attune
from attune.cli.main import main
from attune.config_words import setting_fields
from attune.errors import DataError, Interrupted, ResourceError

VERBS = ("quickstart", "check", "train", "resume", "eval", "chat", "report", "watch")


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run a command line; return exit code, stdout and stderr."""
    capsys.readouterr()
    code = main(words)
    out, err = capsys.readouterr()
    return code, out, err


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    """`attune` alone and `attune --help` print the same page, and it names every verb whole."""
    code, out, err = run(capsys, "--help")
    assert (code, err) == (0, "")
    assert run(capsys)[1] == out
    for verb in VERBS:
        line = next(line for line in out.splitlines() if line.startswith(f"  {verb}"))
        assert not line.endswith("..."), line


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help_and_json(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    """Every verb explains itself and takes --json."""
    code, out, _ = run(capsys, verb, "--help")
    assert code == 0
    assert out.startswith(f"Usage: attune {verb} ")
    assert "--json" in out


@pytest.mark.parametrize("verb", ["train", "check"])
def test_help_lists_every_setting(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    """Verbs that take a config list each setting with its sentence, what it takes and its default."""
    _, out, _ = run(capsys, verb, "--help")
    joined = " ".join(out.split())
    for name, field in setting_fields().items():
        assert f"--{name} {' '.join(str(field.description).split())} [" in joined, name
    assert "[a number above 0, or auto; default auto]" in joined


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """The version is that of the project file."""
    project = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{attune.__version__}"' in project
    assert run(capsys, "--version") == (0, f"attune {attune.__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian", "x"], "No such command 'trian'. Did you mean 'train'?"),
        (["resume"], "Missing argument 'RUN'."),
        (["resume", "a", "--jsn"], "unknown option --jsn - did you mean --json?"),
        (["resume", "a", "b"], "unexpected extra argument"),
        (["eval", "a", "--lim", "3"], "unknown option --lim - did you mean --limit?"),
        (["eval", "a", "--limit", "x"], "Invalid value for '--limit'"),
        (["train", "a.yaml", "b.jsonl"], "a config file (a.yaml) and other names are given: a.yaml, b.jsonl"),
        (["train", "a.jsonl", "--modle", "x"], "unknown option --modle - did you mean --model?"),
        (["train", "a.jsonl", "--dry-rum"], "unknown option --dry-rum - did you mean --dry-run?"),
        (["train", "--train.learning_rat", "1"], "did you mean --train.learning_rate?"),
        (["train", "absent.yaml"], "absent.yaml not found."),
        (["train", "a.yaml", "--config", "b.yaml"], "two config files are given"),
        (["report", "absent"], "absent: not found."),
        (["--nonsense"], "unknown option --nonsense"),
    ],
)
def test_usage_errors(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    """A wrong command line takes exit code 2, at most six lines on stderr, and no traceback."""
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert said.lower() in err.lower()
    assert len(err.splitlines()) <= 6
    assert "Traceback" not in err


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make every command end in an error, as if a verb had raised it."""

    class Broken:
        def main(self, **_: Any) -> None:
            raise error

    monkeypatch.setattr(typer.main, "get_command", lambda _app: Broken())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataError("rows.jsonl:3 is a number"), 3),
        (ResourceError("the disk is full"), 6),
        (Interrupted("stopped; go on: attune resume runs/a"), 75),
        (Interrupted("stopped; go on: attune resume runs/a", exit_code=130), 130),
        (KeyboardInterrupt(), 130),
        (ValueError("first line\nsecond line"), 1),
        (MemoryError("cannot allocate 9 GB"), 6),
        (OSError(errno.ENOSPC, "No space left on device"), 6),
        (PermissionError(errno.EACCES, "Permission denied"), 1),
    ],
)
def test_errors_become_exit_codes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    """The text of an error goes to stderr; with --json a document with the same text goes to stdout."""
    fail_with(monkeypatch, error)
    found, out, err = run(capsys, "train")
    assert (found, out) == (code, "")
    assert len(err.splitlines()) <= 6
    assert str(error).partition("\n")[0] in err
    found, out, err = run(capsys, "train", "--json")
    assert found == json.loads(out)["exit_code"] == code
    assert json.loads(out)["error"] in err


def test_a_bug_says_how_to_see_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug is called one, in one line, with the command that shows its traceback; --debug shows it."""
    fail_with(monkeypatch, ZeroDivisionError("by zero"))
    assert run(capsys, "train", "x")[2] == (
        "a bug in attune: ZeroDivisionError: by zero\nSee where: attune train x --debug\n"
    )
    code, _, err = run(capsys, "train", "x", "--debug")
    assert code == 1
    assert "Traceback (most recent call last)" in err
    assert "See where" not in err


def test_debug_shows_the_traceback_of_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    """--debug may stand anywhere and works for a user's mistake too."""
    code, _, err = run(capsys, "--debug", "train", "absent.yaml")
    assert code == 2
    assert "Traceback" in err


def test_messages_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes that a file or name could smuggle into a message are written out."""
    _, _, err = run(capsys, "report", "a\x1b[2Jb")
    assert "\x1b" not in err
    assert "U+001B" in err


def test_a_reader_that_goes_away_is_no_error() -> None:
    """`attune ... | head` ends quietly."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2] / "src")}
    command = [sys.executable, "-c", "import time, sys; time.sleep(0.5); from attune.__main__ import *", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode in (0, 1)
