"""Watched runs: which there are, what each has come to, and how their settings differ."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from attune.errors import ConfigError
from attune.show.live_runs import Runs, compare_settings, file_of
from tests.show.growing_run import GrowingRun


def test_a_run_is_described_from_what_it_recorded(tmp_path: Path) -> None:
    """Steps, losses, alarms and the time left are those of the files, at every look."""
    run = GrowingRun(tmp_path / "one", total=200)
    run.validate()
    (watched,) = Runs([str(run.path)]).update()
    first = watched.describe()
    assert (first["step"], first["loss"], first["seconds_left"]) == (0, None, None)
    assert first["base_loss"] == run.loss(0) + 0.1
    run.train(40)
    run.validate(0.9)
    run.train(10)
    run.validate(1.2)
    run.alarm()
    watched.update()
    facts = watched.describe()
    assert (facts["step"], facts["total_steps"], facts["status"]) == (50, 200, "running")
    assert (facts["val_loss"], facts["lowest_loss"], facts["lowest_step"]) == (1.2, 0.9, 40)
    assert facts["seconds_left"] == pytest.approx(150 * 0.5)
    assert facts["alarms"] == {"error": 0, "warning": 1, "info": 0}
    assert watched.series("loss")[-1] == facts["loss"]
    assert watched.series("val_loss") == [run.loss(0) + 0.1, 0.9, 1.2]
    run.end()
    assert (watched.describe()["status"], watched.describe()["seconds_left"]) == ("done", None)


def test_a_resumed_run_forgets_what_it_does_again(tmp_path: Path) -> None:
    """When the metrics are replaced by fewer, the steps that are gone are gone here, too."""
    run = GrowingRun(tmp_path / "one")
    run.train(30)
    (watched,) = Runs([str(run.path)]).update()
    kept = run.run.read_lines("metrics.jsonl")[:20]
    run.run.write_lines("metrics.jsonl", kept)
    watched.update()
    assert (watched.describe()["step"], len(watched.series("loss"))) == (20, 20)


def test_a_killed_run_falls_silent(tmp_path: Path) -> None:
    """A run that says running and writes nothing for minutes is silent; one that has ended is not."""
    run = GrowingRun(tmp_path / "one")
    run.train(3)
    (watched,) = Runs([str(run.path)]).update()
    assert watched.describe()["silent_s"] is None
    assert watched.describe(now=time.time() + 600)["silent_s"] == pytest.approx(600, abs=5)
    run.end()
    assert watched.describe(now=time.time() + 600)["silent_s"] is None


def test_a_folder_of_runs_grows(tmp_path: Path) -> None:
    """All runs in a folder are watched in the order they were made, new ones as they come, each once."""
    GrowingRun(tmp_path / "late", created="2026-11-22T09:00:00")
    GrowingRun(tmp_path / "early", created="2026-11-22T01:00:00")
    (tmp_path / "no run").mkdir()
    runs = Runs([str(tmp_path), str(tmp_path / "late")])
    assert [run.name for run in runs.update()] == ["early", "late"]
    GrowingRun(tmp_path / "new", created="2026-11-21T00:00:00")
    assert [run.name for run in runs.update()] == ["early", "late", "new"]


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """Two folders of the same name get two names, by which each is found."""
    for parent in ("a", "b"):
        GrowingRun(tmp_path / parent / "run")
    runs = Runs([str(tmp_path / "a"), str(tmp_path / "b")])
    assert [run.name for run in runs.update()] == ["run", "run (2)"]
    found = runs.find("run (2)")
    assert found is not None
    assert found.folder == (tmp_path / "b" / "run").resolve()
    assert runs.find("../a/run") is None


def test_no_run_is_an_error_with_the_runs_nearby(tmp_path: Path) -> None:
    """A wrong folder is refused in words that name a right one."""
    GrowingRun(tmp_path / "tickets-1")
    with pytest.raises(ConfigError, match=r"Runs here: .*tickets-1"):
        Runs([str(tmp_path / "tickets-2")])


def test_settings_that_differ(tmp_path: Path) -> None:
    """Only settings that differ are told, but never the folder; one that a run lacks is None."""
    one, other = GrowingRun(tmp_path / "one", rate=1e-3), GrowingRun(tmp_path / "other", rate=2e-3)
    with (other.path / "config.yaml").open("a") as file:
        file.write("seed: 3\n")
    found = Runs([str(tmp_path)]).update()
    assert compare_settings(found) == [
        {"name": "train.learning_rate", "values": ["0.001", "0.002"]},
        {"name": "seed", "values": [None, "3"]},
    ]
    assert compare_settings(found[:1]) == []
    assert one.path != other.path


def test_a_link_out_of_the_run_is_not_followed(tmp_path: Path) -> None:
    """A file that is a link to elsewhere is not the run's."""
    run = GrowingRun(tmp_path / "run")
    run.train(1)
    secret = tmp_path / "secret.jsonl"
    secret.write_text(json.dumps({"key": "secret"}) + "\n")
    (run.path / "events.jsonl").symlink_to(secret)
    (watched,) = Runs([str(run.path)]).update()
    assert file_of(watched, "metrics") == run.path.resolve() / "metrics.jsonl"
    assert file_of(watched, "events") is None
