"""Verbs that work on a finished run: eval, chat, report, resume; and the same from Python."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import attune
from attune.cli.main import main
from attune.errors import ConfigError, DataError
from tests.tiny import write_model_folder, write_rows


@pytest.fixture(scope="module", params=["full", "lora"])
def run(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> str:
    """A finished run, made from Python with settings as keywords and by dotted name."""
    folder = tmp_path_factory.mktemp("run")
    base = write_model_folder(folder / "base")
    events: list[str] = []
    made = attune.finetune(
        write_rows(folder / "rows.jsonl", 40),
        model=base,
        out=folder / "a",
        train={"steps": 3, "batch_rows": 4, "learning_rate": 0.02},
        adapter={"kind": request.param},
        settings={"train.steps": 12},
        on_event=lambda kind, _: events.append(kind),
    )
    assert made.result["steps"] == 12
    assert {"data", "plan", "step", "done"} <= set(events)
    assert (made.folder / "report.html").is_file()
    return str(made.folder)


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run a command line; return exit code, stdout and stderr."""
    capsys.readouterr()
    code = main(words)
    out, err = capsys.readouterr()
    return code, out, err


def test_eval(capsys: pytest.CaptureFixture[str], run: str) -> None:
    """A table, a verdict and the next command; the same document with --json and from Python."""
    code, out, err = call(capsys, "eval", run, "--max-new-tokens", "4")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == f"next      attune report {run}"
    assert any(line.startswith("Exact match") for line in out.splitlines())
    code, out, err = call(capsys, "eval", run, "--max-new-tokens", "4", "--limit", "1", "--name", "one", "--json")
    document = json.loads(out)
    assert code == 0
    assert "answers   tuned: 1 row\n" in err
    same = attune.evaluate(run, max_new_tokens=4, limit=1, name="one")
    for key in ("rows", "systems", "comparisons", "verdict"):
        assert document[key] == same[key]


@pytest.mark.parametrize("compare", [False, True])
def test_chat(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, run: str, compare: bool) -> None:
    """Lines of a pipe are turns; /new starts over, so the same question gets the same greedy answer again."""
    words = ["chat", run, "--max-new-tokens", "5", "--json", *(["--compare"] if compare else [])]
    monkeypatch.setattr(sys, "stdin", io.StringIO("red stone\n\nand?\n/new\nred stone\n/quit\nnever asked\n"))
    code, out, err = call(capsys, *words)
    document = json.loads(out)
    assert code == 0
    assert [turn["prompt"] for turn in document["turns"]] == ["red stone", "and?", "red stone"]
    assert document["turns"][0]["answers"] == document["turns"][2]["answers"]
    names = ["base", "tuned"] if compare else ["tuned"]
    assert list(document["turns"][0]["answers"]) == names
    assert [line.partition(">")[0] for line in err.splitlines() if ">" in line[:6]] == names * 3
    if compare:
        first = document["turns"][0]["answers"]
        assert first["base"] != first["tuned"]


def test_report(capsys: pytest.CaptureFixture[str], run: str) -> None:
    """One file in the run folder, named on the screen and in the document."""
    code, out, _ = call(capsys, "report", run)
    assert code == 0
    assert out.splitlines() == [f"report    {run}/report.html", f"next      attune chat {run} --compare"]
    assert json.loads(call(capsys, "report", run, "--json")[1])["report"] == f"{run}/report.html"
    assert Path(run, "report.html").stat().st_size > 10_000


def test_quickstart_ends_with_table_samples_and_report(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, run: str
) -> None:
    """The verb hands on its options and tells what the journey brought; the journey itself has its own test."""
    given: dict[str, object] = {}

    def journey(out: str, *, on_event: Callable[[str, object], None], seed: int) -> dict[str, object]:
        given.update(out=out, seed=seed)
        words = dict.fromkeys(("device", "precision", "attention", "attention_reason"), "x")
        on_event("plan", {**words, "run": run, "steps": 3, "epochs": 1.0, "batch_rows": 4, "learning_rate": 0.1})
        compared = attune.evaluate(run, max_new_tokens=4, name="test")
        return {**json.loads(Path(run, "result.json").read_text()), "eval": compared}

    monkeypatch.setattr("attune.train.quickstart.quickstart", journey)
    code, out, _ = call(capsys, "quickstart", "--out", "runs/q", "--seed", "7")
    labels = [line.split()[0] for line in out.splitlines()]
    assert (code, given) == (0, {"out": "runs/q", "seed": 7})
    assert labels.count("asked") == labels.count("base") == labels.count("tuned") == 2
    assert labels[-2:] == ["report", "next"]
    document = json.loads(call(capsys, "quickstart", "--json")[1])
    assert document["report"] == f"{run}/report.html"
    assert document["eval"]["rows"] == 2


def test_resume_of_a_finished_run_is_refused(capsys: pytest.CaptureFixture[str], run: str) -> None:
    """There is nothing to go on with, and the next command is named."""
    code, out, err = call(capsys, "resume", run)
    assert (code, out) == (7, "")
    assert f"attune eval {run}" in err


def test_chat_needs_a_model(capsys: pytest.CaptureFixture[str], run: str, tmp_path: Path) -> None:
    """A run that has not finished has nobody to talk to."""
    (tmp_path / "a").mkdir()
    for name in ("manifest.json", "config.yaml"):
        (tmp_path / "a" / name).write_bytes(Path(run, name).read_bytes())
    code, _, err = call(capsys, "chat", str(tmp_path / "a"))
    assert (code, "holds no model yet. Finish the run: attune resume" in err) == (7, True)


def test_python_takes_a_config_and_names_faults(tmp_path: Path) -> None:
    """A Config may be changed by settings; a wrong name or file raises what the command line prints."""
    config = attune.Config(model="absent")
    with pytest.raises(ConfigError, match=r'settings: unknown key "train.stesp" - did you mean "train.steps"\?'):
        attune.finetune(config, settings={"train.stesp": 3})
    with pytest.raises(DataError, match="not found"):
        attune.check(tmp_path / "absent.jsonl")
    with pytest.raises(AttributeError, match="no attribute 'fintune'"):
        attune.fintune  # noqa: B018
    assert attune.load_config(None, ["train.steps=3"]).train.steps == 3
