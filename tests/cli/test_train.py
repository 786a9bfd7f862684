"""`attune train` and `attune resume` from the command line, on a tiny real model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Event, Thread

import pytest
import yaml

from attune.cli.main import main
from attune.config import Config
from attune.config_file import load_config
from tests.tiny import write_model_folder, write_rows

SOURCE = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model folder."""
    return write_model_folder(tmp_path_factory.mktemp("base"))


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Forty rows in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl", 40)
    return "rows.jsonl"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run a command line; return exit code, stdout and stderr."""
    capsys.readouterr()
    code = main(words)
    out, err = capsys.readouterr()
    return code, out, err


def test_train_without_a_config_file(capsys: pytest.CaptureFixture[str], rows: str, base: Path) -> None:
    """A file and a model are enough: at most 25 lines, the last one the next command, and a whole run folder."""
    code, out, err = run(capsys, "train", rows, "--model", str(base), "--train.steps", "20")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert len(lines) <= 25
    assert lines[0] == "data      rows.jsonl: JSONL of 40 rows: prompt/completion"
    assert [line.split()[0] for line in lines[1:7]] == ["rows", "tokens", "template", "model", "device", "plan"]
    assert sum(line.startswith("step") for line in lines) == 8
    assert Path(lines[-2].removeprefix("report    ")).is_file()
    folder = lines[-1].removeprefix("next      attune eval ")
    assert folder.startswith("runs/rows-")
    assert (Path(folder) / "model" / "config.json").is_file()


def test_train_as_a_config_says_with_json(
    capsys: pytest.CaptureFixture[str], rows: str, base: Path, tmp_path: Path
) -> None:
    """With --json stdout holds one document and nothing else; the command line wins over the file."""
    (tmp_path / "c.yaml").write_text(f"model: {base}\nout: runs/c\ntrain: {{steps: 9, batch_rows: 4}}\n")
    code, out, err = run(capsys, "train", rows, "-c", "c.yaml", "train.steps=3", "--json")
    document = json.loads(out)
    assert code == 0
    assert {"run", "steps", "best_step", "stopped_early", "metrics", "alarms"} <= set(document)
    assert (document["run"], document["steps"]) == ("runs/c", 3)
    assert "model     runs/c/model (step 3)" in err
    manifest = json.loads(Path("runs/c/manifest.json").read_text())
    assert manifest["command"] == f"attune train {rows} -c c.yaml train.steps=3 --json"
    assert load_config("runs/c/config.yaml").train.batch_rows == 4


def test_dry_run_prints_a_config_that_can_be_used(capsys: pytest.CaptureFixture[str], rows: str, base: Path) -> None:
    """--dry-run writes nothing; its stdout is YAML with a reason at each resolved default, and reads back."""
    code, out, err = run(capsys, "train", rows, "--model", str(base), "--dry-run")
    assert code == 0
    assert err.startswith("data      rows.jsonl")
    assert not Path("runs").exists()
    assert yaml.safe_load(out)["train"]["learning_rate"] == 0.001
    for key in ("device", "  max_length", "  steps", "  learning_rate", "  every"):
        line = next(line for line in out.splitlines() if line.startswith(f"{key}:"))
        assert "  # " in line
    Path("again.yaml").write_text(out)
    again = load_config("again.yaml")
    assert (again.train.steps, again.data.max_length) == (9, 256)
    code, out, _ = run(capsys, "train", "again.yaml", "--dry-run", "--json")
    assert Config.model_validate(json.loads(out)["config"]) == again
    assert code == 0


def test_a_used_folder_is_refused(capsys: pytest.CaptureFixture[str], rows: str, base: Path) -> None:
    """A folder with a run, a folder with other things, and a file are refused with 7 and left as they are."""
    words = ("train", rows, "--model", str(base), "--train.steps", "1", "--out")
    assert run(capsys, *words, "runs/a")[0] == 0
    before = Path("runs/a/metrics.jsonl").read_bytes()
    code, _, err = run(capsys, *words, "runs/a")
    assert code == 7
    assert "runs/a holds a run (step 1 of 1, done); it is never overwritten." in err
    assert Path("runs/a/metrics.jsonl").read_bytes() == before
    Path("other").mkdir()
    Path("other/notes.txt").write_text("x")
    assert run(capsys, *words, "other")[0] == 7
    code, _, err = run(capsys, *words, rows)
    assert (code, "is a file, and a run needs a folder" in err) == (7, True)
    assert len(Path(rows).read_text().splitlines()) == 40


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_place_is_refused(capsys: pytest.CaptureFixture[str], rows: str, base: Path) -> None:
    """A place that cannot be written to is refused with 7 before anything is loaded."""
    Path("locked").mkdir(mode=0o500)
    code, _, err = run(capsys, "train", rows, "--model", str(base), "--out", "locked/a")
    assert (code, "cannot be written to" in err) == (7, True)


@pytest.mark.parametrize("name", ["", "..", "CON", "aux.run", "a b", "-x", "x" * 81, "x\x1b[31m", "x\0y", "naïve"])
def test_bad_run_names_are_refused(capsys: pytest.CaptureFixture[str], rows: str, base: Path, name: str) -> None:
    """Names with other signs, reserved names and long ones are refused with 2; nothing is written."""
    code, _, err = run(capsys, "train", rows, "--model", str(base), f"--out=runs/{name}" if name else "--out=")
    assert code == 2
    assert "use letters, digits, . _ -" in err
    assert len(err.splitlines()) <= 6
    assert not Path("runs").exists()


def test_the_parts_of_a_path_before_the_name_are_free(
    capsys: pytest.CaptureFixture[str], rows: str, base: Path
) -> None:
    """Only the last part of --out names the run, but a path that climbs out with .. must be written in full."""
    out = "my runs/deep.er/a"
    assert run(capsys, "train", rows, "--model", str(base), "--train.steps=1", "--out", out)[0] == 0
    assert Path("my runs/deep.er/a/result.json").is_file()
    code, _, err = run(capsys, "train", rows, "--model", str(base), "--train.steps=1", "--out", "../../x")
    assert (code, f"Write it in full if it is meant: --out {Path.cwd().parents[1] / 'x'}" in err) == (2, True)


def test_bad_rows_stop_training_before_torch(rows: str, base: Path) -> None:
    """Data faults take exit code 3, leave no run folder, and are found without loading torch."""
    with Path(rows).open("a") as file:
        file.write('{"prompt": "a"\n')
    code = (
        "import sys; from attune.cli.main import main\n"
        f"code = main(['train', 'rows.jsonl', '--model', {str(base)!r}])\n"
        "sys.exit('torch' if 'torch' in sys.modules else code)"
    )
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 3, ended.stderr
    assert "rows.jsonl:41:" in ended.stderr
    assert not list(Path().glob("runs/*"))


def test_ctrl_c_saves_and_says_how_to_go_on(capsys: pytest.CaptureFixture[str], rows: str, base: Path) -> None:
    """The first Ctrl-C finishes the step, saves, and exits 130 with the command to go on."""
    written, is_over = Path("runs/a/metrics.jsonl").absolute(), Event()

    def interrupt() -> None:
        """Press Ctrl-C once a step is recorded; by then training listens."""
        while not is_over.wait(0.002):
            if written.is_file() and written.stat().st_size:
                os.kill(os.getpid(), signal.SIGINT)
                return

    presses = Thread(target=interrupt)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # should it come when the run is over
    words = ["train", rows, "--model", str(base), "--out", "runs/a", "--train.steps", "4000", "--log.every", "1"]
    try:
        presses.start()
        code, _, err = run(capsys, *words)
    finally:
        is_over.set()
        presses.join()
        signal.signal(signal.SIGINT, before)
    assert code == 130
    assert "attune resume runs/a" in err
    assert "Traceback" not in err
    result = json.loads(Path("runs/a/result.json").read_text())
    assert (result["status"], result["total_steps"]) == ("stopped", 4000)
    assert 0 < result["steps"] < 4000
    assert Path("runs/a/report.html").is_file()
