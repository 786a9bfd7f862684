"""`attune plan` from the command line: lines, document, exit codes and the next command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import attune.train.measure as measuring
from attune.cli.main import main
from attune.show.plan_lines import gigabytes, plan_lines

KEYS = {"fits", "memory_gb", "tokens_per_s", "steps", "hours"}
MEMORY = {"weights", "gradients", "optimizer", "activations", "total", "measured"}


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run a command line; return exit code, stdout and stderr."""
    capsys.readouterr()
    code = main(words)
    out, err = capsys.readouterr()
    return code, out, err


def test_an_estimate_in_lines(capsys: pytest.CaptureFixture[str], rows: Path, base: Path) -> None:
    """Few lines, the last one a command that goes on with what the plan chose; nothing is written."""
    code, out, err = run(capsys, "plan", rows.name, "--model", str(base), "--no-measure")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert len(lines) <= 25
    assert [line.split()[0] for line in lines[-5:]] == ["fits", "memory", "time", "config", "next"]
    assert "(an estimate)" in lines[-5]
    assert lines[-3].endswith("not measured")
    assert lines[-1].startswith(f"next      attune train {rows.name} --model {base} --train.micro_tokens ")
    assert {path.name for path in Path().iterdir()} == {rows.name}


def test_a_measured_document(capsys: pytest.CaptureFixture[str], rows: Path, base: Path) -> None:
    """With --json stdout is one document with the promised keys, all of them numbers; the rest is on stderr."""
    Path("c.yaml").write_text(f"model: {base}\ndata: {{train: {rows.name}}}\ntrain: {{steps: 3, batch_rows: 4}}\n")
    code, out, err = run(capsys, "plan", "c.yaml", "--json")
    document = json.loads(out)
    assert code == 0
    assert set(document) >= KEYS
    assert set(document["memory_gb"]) == MEMORY
    assert all(number > 0 for number in document["memory_gb"].values())
    assert document["steps"] == 3
    assert document["tokens_per_s"] > 0
    assert "measuring" in err
    assert {path.name for path in Path().iterdir()} == {rows.name, "c.yaml"}


def test_the_chosen_settings_train(capsys: pytest.CaptureFixture[str], rows: Path, base: Path) -> None:
    """The next command that a plan prints runs."""
    _, out, _ = run(capsys, "plan", rows.name, "--model", str(base), "--no-measure", "--train.steps", "1")
    words = out.splitlines()[-1].removeprefix("next      attune ").split()
    assert "--train.steps" in words
    assert run(capsys, *words)[0] == 0


def test_too_big_exits_with_6(
    capsys: pytest.CaptureFixture[str], rows: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit is told in full, with the exit code of a resource that is missing."""
    monkeypatch.setattr(measuring, "free_bytes", lambda device: 1000)
    code, out, _ = run(capsys, "plan", rows.name, "--model", str(base))
    assert code == 6
    assert any(line.startswith("too big") for line in out.splitlines())
    assert out.splitlines()[-1].startswith("next      attune plan ")
    code, out, _ = run(capsys, "plan", rows.name, "--model", str(base), "--json")
    assert (code, json.loads(out)["fits"]) == (6, False)


def test_faults_end_a_plan_as_they_end_a_training(capsys: pytest.CaptureFixture[str], rows: Path, base: Path) -> None:
    """Bad rows take 3, a missing model 4, an unknown option 2."""
    assert run(capsys, "plan", rows.name, "--model", "nowhere")[0] == 4
    assert run(capsys, "plan", rows.name, "--model", str(base), "--no-mesure")[0] == 2
    with rows.open("a") as file:
        file.write('{"prompt": "a"\n')
    code, _, err = run(capsys, "plan", rows.name, "--model", str(base))
    assert (code, "rows.jsonl:41:" in err) == (3, True)


def test_a_child_that_dies_is_told(rows: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A measured step that the system kills is memory that was missing."""
    from attune.config import Config
    from attune.train.plan import plan

    def die(*_: object, **__: object) -> subprocess.CompletedProcess[bytes]:
        code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
        return run_really([sys.executable, "-c", code], check=False)

    run_really = subprocess.run
    monkeypatch.setattr(measuring.subprocess, "run", die)  # type: ignore[attr-defined]
    config = Config().with_values({"model": str(base), "data.train": str(rows), "device": "cpu"})
    document = plan(config)
    assert document["fits"] is False
    assert document["memory_gb"]["measured"] is None


def test_lines_of_a_plan_that_needs_layers_computed_again() -> None:
    """Both figures, the error, the time and the settings stand in the lines."""
    memory = {"weights": 16.1, "gradients": 16.1, "optimizer": 32.1, "activations": 20.0, "total": 75.0}
    document = {
        "fits": True, "memory_gb": {**memory, "measured": 73.5}, "error": 0.0204, "capacity_gb": 79.2,
        "tokens_per_s": 12345.0, "steps": 1200, "hours": 2.5, "train_flos": 3.2e18, "tokens": 111_000_000,
        "device": "cuda", "micro_tokens": 8192, "checkpointing": 7, "layers": 32, "instead": [],
        "config": {"train.micro_tokens": 8192, "train.checkpointing": 7},
    }  # fmt: skip
    lines = plan_lines(document, "rows.jsonl --model M")
    assert lines[0] == "fits      73.5 GB (measured) of 79.2 GB that are free on cuda"
    assert "at the peak 75.0 GB estimated (+2.0 %)" in lines[1]
    assert lines[2].startswith("time      2 h 30 min at 12.3 k tokens/s: 1,200 steps")
    assert lines[3] == "config    train.micro_tokens = 8192, train.checkpointing = 7 (of 32 layers)"
    assert lines[4].endswith("attune train rows.jsonl --model M --train.micro_tokens 8192 --train.checkpointing 7")
    assert (gigabytes(0.0123), gigabytes(1.5)) == ("12 MB", "1.5 GB")
