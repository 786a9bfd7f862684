"""Whole journeys, as typed: from a file of rows to a tuned model that is measured, reported and talked to."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from attune.cli.main import main
from attune.config import Config
from tests.tiny import write_model_folder, write_rows

pytestmark = pytest.mark.journey

SOURCE = Path(__file__).resolve().parents[2] / "src"
MOST_LINES = 25
QUICK = ("--train.steps", "2", "--train.batch_rows", "2", "--data.valid_share", "0.002", "--data.valid_rows", "4")
METRICS = {
    *("loss", "accuracy", "perplexity", "learning_rate", "epoch", "train_flos"),
    *("val_loss", "val_accuracy", "val_perplexity"),
}


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """What stands on stdout."""
        return self.out.splitlines()

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout."""
        document = json.loads(self.out)
        assert isinstance(document, dict)
        return document


def attune(*words: str | Path, folder: Path, typed: str = "") -> Ended:
    """Run a command line in a process of its own, in this folder, with text typed on its stdin."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-m", "attune", *map(str, words)],
        input=typed,
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        check=False,
    )
    assert "Traceback" not in ended.stderr
    return Ended(ended.returncode, ended.stdout, ended.stderr)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a space and a foreign letter in its name, with rows and a tiny model in it."""
    folder = tmp_path_factory.mktemp("home") / "my tüne"
    folder.mkdir()
    write_rows(folder / "rows.jsonl", 40)
    write_model_folder(folder / "base")
    return folder


@pytest.fixture(scope="module")
def trained(home: Path) -> Ended:
    """A run, trained with nothing but a file and a model."""
    return attune("train", "rows.jsonl", "--model", "base", "--train.steps", "12", "--out", "runs/a", folder=home)


def test_training_takes_two_words_and_names_the_next(home: Path, trained: Ended) -> None:
    """At most 25 lines, the last one the next command; nothing on stderr."""
    assert (trained.code, trained.err) == (0, "")
    assert len(trained.lines) <= MOST_LINES
    assert trained.lines[-1] == "next      attune eval runs/a"
    assert (home / "runs/a/model/model.safetensors").is_file()


def test_the_journey_goes_on(home: Path, trained: Ended) -> None:
    """Each verb works on the run, from its own folder and from another one, with one document at --json."""
    refused = attune("resume", "runs/a", folder=home)
    assert (refused.code, refused.out) == (7, "")
    assert "is finished (12 steps). Next: attune eval runs/a" in refused.err

    elsewhere, run = home.parent, home / "runs/a"
    answered = attune("eval", run, "--max-new-tokens", "4", "--json", folder=elsewhere)
    assert answered.code == 0, answered.err
    assert {"rows", "systems", "comparisons", "verdict"} <= set(answered.document)
    assert set(answered.document["systems"]) == {"base", "tuned"}
    keys = {"metric", "a", "b", "difference", "low", "high", "p", "verdict"}
    assert all(keys <= set(comparison) for comparison in answered.document["comparisons"])

    reported = attune("report", run, folder=elsewhere)
    assert (reported.code, len(reported.lines)) == (0, 2)
    assert reported.lines[-1] == f"next      attune chat '{run}' --compare"
    assert (run / "report.html").stat().st_size > 10_000

    talked = attune("chat", run, "--max-new-tokens", "4", "--compare", folder=elsewhere, typed="red stone\n")
    assert (talked.code, talked.err) == (0, "")
    assert [line.partition(">")[0] for line in talked.lines if ">" in line[:6]] == ["base", "tuned"]
    silent = attune("chat", run, folder=elsewhere)
    assert (silent.code, silent.err) == (0, "")


def test_check_says_what_training_would_do(home: Path, trained: Ended) -> None:
    """The ledger of check is that of the run, and its document has the promised keys."""
    checked = attune("check", "rows.jsonl", "--model", "base", "--json", folder=home)
    assert (checked.code, checked.err) == (0, "")
    document = checked.document
    assert {"rows", "ok", "ledger", "tokens", "findings"} <= set(document)
    assert set(document["ledger"]) == {"used", "cut", "dropped", "duplicate", "held_out"}
    assert set(document["tokens"]) == {"in", "learned", "lost"}
    keys = {"id", "name", "severity", "rows", "share", "message", "fix", "examples"}
    assert all(set(finding) == keys for finding in document["findings"])
    ledger = json.loads((home / "runs/a/ledger.jsonl").read_text().splitlines()[0])["summary"]
    assert {state: number for state, number in document["ledger"].items() if number} == {
        state: number for state, number in ledger["counts"].items() if number
    }


def test_the_next_command_of_check_can_be_typed(home: Path) -> None:
    """It carries the settings that the rows were read with, and trains."""
    (home / "asked and said.csv").write_text("asked,said\n" + "".join(f"what is {n}?,number {n}\n" for n in range(30)))
    columns = ("--data.columns.prompt", "asked", "data.columns.completion=said")
    checked = attune("check", "asked and said.csv", "--model", "base", *columns, folder=home)
    assert checked.code == 0
    command = checked.lines[-1].removeprefix("next      attune ")
    assert command == f"train 'asked and said.csv' --model base {' '.join(columns)}"
    ended = attune("train", "asked and said.csv", "--model", "base", *columns, *QUICK, folder=home)
    assert ended.code == 0, ended.err


def test_a_dry_run_prints_a_config_and_leaves_nothing(home: Path) -> None:
    """--dry-run prints every setting, resolved; what it prints is a config file, and no run folder comes of it."""
    before = set(home.rglob("*"))
    dry = attune("train", "rows.jsonl", "--model", "base", "--out", "runs/dry", "--dry-run", folder=home)
    assert dry.code == 0
    settings = yaml.safe_load(dry.out)
    assert settings["train"]["steps"] > 0
    assert Config.model_validate(settings).data.train == "rows.jsonl"
    document = attune("train", "rows.jsonl", "--model", "base", "--dry-run", "--json", folder=home).document
    assert set(document) == {"config", "reasons"}
    assert set(home.rglob("*")) == before


def test_lora_from_python_and_from_the_shell_are_one(home: Path) -> None:
    """The same words give the same figures, whether typed or called."""
    words = ("--adapter.kind", "lora", "--train.steps", "2", "--out", "runs/typed", "--json")
    typed = attune("train", "rows.jsonl", "--model", "base", *words, folder=home)
    assert typed.code == 0, typed.err
    assert {"run", "steps", "best_step", "stopped_early", "metrics", "alarms"} <= set(typed.document)
    assert set(typed.document["metrics"]) == METRICS
    script = (
        "import attune, json\n"
        "settings = {'train.steps': 2, 'adapter.kind': 'lora', 'out': 'runs/called'}\n"
        "run = attune.finetune('rows.jsonl', model='base', settings=settings)\n"
        "assert attune.evaluate(run.folder, max_new_tokens=2)['rows'] > 0\n"
        "print(json.dumps(run.result['metrics']))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script]
    called = subprocess.run(command, capture_output=True, text=True, cwd=home, env=environment, check=False)
    assert called.returncode == 0, called.stderr
    assert json.loads(called.stdout) == typed.document["metrics"]


LAYOUTS = [
    ("gsm8k_train.jsonl", "question/answer", ()),
    ("llamafactory_alpaca_en_demo.json", "Alpaca instruction/input/output", ()),
    (
        "banking77_train.csv",
        "prompt/completion",
        ("--data.columns.prompt", "text", "--data.columns.completion", "category"),
    ),
    ("t0_train_50k_clean.jsonl", "prompt/completion", ()),
]


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize(("name", "layout", "words"), LAYOUTS)
def test_real_files(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    *, name: str, layout: str, words: tuple[str, ...], kind: str,
) -> None:  # fmt: skip
    """Real files of each layout are trained on with no file written by the user, in few lines; nothing is lost."""
    monkeypatch.chdir(tmp_path)
    rows = shared / "data" / "sft" / name
    if name.endswith(".jsonl"):  # the first rows, so that the test stays short
        rows = tmp_path / name
        with (shared / "data" / "sft" / name).open(encoding="utf-8") as file:
            rows.write_text("".join(itertools.islice(file, 2000)), encoding="utf-8")
    model = str(shared / "models" / "stories260K")
    code = main(["train", str(rows), "--model", model, *QUICK, "--adapter.kind", kind, *words])
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert layout in lines[0]
    assert len(lines) <= MOST_LINES
    (run,) = (tmp_path / "runs").iterdir()
    assert lines[-1] == f"next      attune eval runs/{run.name}"
    first, *entries = (run / "ledger.jsonl").read_text().splitlines()
    ledger = json.loads(first)["summary"]
    assert sum(ledger["counts"].values()) == ledger["rows"] == len(entries)
