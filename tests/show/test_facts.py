"""A run folder is read whatever state it is in; what is missing or damaged becomes a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from attune.record import RunFolder
from attune.show.facts import read_facts
from tests.show.run_folder import EVALUATION, STEPS, write_run


def test_complete_run(tmp_path: Path) -> None:
    """A complete folder is read without a complaint."""
    facts = read_facts(write_run(tmp_path))
    assert facts.problems == ()
    assert facts.last_step == STEPS
    assert facts.base == facts.valids[0]
    assert facts.best is not None
    assert facts.best["step"] == facts.result["best_step"]
    assert facts.config["train.clip"] == 1.0
    assert facts.evals[0].document["rows"] == EVALUATION["rows"]


def test_every_file_may_be_missing(tmp_path: Path) -> None:
    """Each file that is gone is named with what cannot be shown, and the rest is still read."""
    path = write_run(tmp_path)
    for name in ("manifest.json", "config.yaml", "ledger.jsonl", "metrics.jsonl", "result.json"):
        (path / name).unlink()
    facts = read_facts(path)
    assert len(facts.problems) == 5
    assert "ledger.jsonl is missing, so where each input row went cannot be shown." in facts.problems
    assert facts.best is None
    assert facts.preview


def test_cut_off_line_is_no_damage(tmp_path: Path) -> None:
    """A last line that a crash cut off is passed over silently; a damaged line inside is counted and named."""
    path = write_run(tmp_path)
    whole = (path / "metrics.jsonl").read_bytes()
    (path / "metrics.jsonl").write_bytes(whole + b'{"step": 283, "lo')
    assert read_facts(path).problems == ()
    (path / "metrics.jsonl").write_bytes(b"\x00\x00\n" + whole)
    facts = read_facts(path)
    assert facts.problems == ("metrics.jsonl: 1 damaged line(s) were left out (first: line 1).",)
    assert facts.last_step == STEPS


@pytest.mark.parametrize("name", ["manifest.json", "result.json", "findings.json", "eval/test.json", "config.yaml"])
def test_damaged_files_are_named(name: str, tmp_path: Path) -> None:
    """A damaged file is left out and named."""
    path = write_run(tmp_path)
    (path / name).write_text("{a: [", encoding="utf-8")
    problems = read_facts(path).problems
    assert len(problems) == 1
    assert problems[0].startswith(f"{name} is damaged (")


def test_a_step_written_twice_counts_once(tmp_path: Path) -> None:
    """Where a resumed run wrote a step again, the later record stands."""
    run = RunFolder.create(tmp_path / "resumed")
    run.append("metrics.jsonl", {"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 2, "loss": 1.5})
    assert [record["loss"] for record in read_facts(run.path).steps] == [3.0, 1.5]


def test_newest_evaluation_first(tmp_path: Path) -> None:
    """Of several evaluations the newest one speaks."""
    path = write_run(tmp_path)
    RunFolder(path).write_json("eval/later.json", {**EVALUATION, "name": "later", "created": "2026-12-01T00:00:00"})
    assert [one.name for one in read_facts(path).evals] == ["later", "test"]


def test_folder_is_named_as_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands name the run relative to the working folder, quoted where a shell needs it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my runs" / "one").mkdir(parents=True)
    assert read_facts(tmp_path / "my runs" / "one").folder == "'my runs/one'"
