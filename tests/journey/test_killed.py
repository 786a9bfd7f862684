"""A run that is killed in the middle leaves a page that can be read, and every view can look at it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attune.cli.main import main
from tests.tiny import small_run, write_model_folder

pytestmark = pytest.mark.journey

SOURCE = Path(__file__).resolve().parents[2] / "src"
WAIT_S = 120


def start(settings: dict[str, object]) -> subprocess.Popen[bytes]:
    """Start a training as typed."""
    flags = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "attune", "train", *flags]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_a_killed_run_is_readable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Killed after its second validation: its page is whole, made anew it names the way on, and watch shows it."""
    base = write_model_folder(tmp_path / "base")
    wishes = {"train.steps": 4000, "valid.every": 5, "checkpoint.every": 5, "guards.prompts": 2, "guards.rows": 2}
    settings = small_run(tmp_path, base, rows=12, valid=4) | wishes
    run = Path(settings["out"])
    process = start(settings)
    began = time.monotonic()
    while not (run / "checkpoints" / "step-10").is_dir():  # nothing else tells from outside how far it is
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() - began < WAIT_S, "no checkpoint came"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert json.loads((run / "result.json").read_text())["status"] == "running"
    page = (run / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")
    assert main(["report", str(run)]) == 0
    assert "attune resume" in (run / "report.html").read_text()
    assert main(["watch", str(run), "--once"]) == 0
    assert "step" in capsys.readouterr().out
