"""Trackers get every recorded number and alarm, go on after a resume, and never break a run.

Those of packages that are not installed are skipped; what was written is read back from the trackers' own files.
"""

from __future__ import annotations

import importlib
import json
import sqlite3
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from attune.config import Config
from attune.config_words import setting_fields
from attune.errors import ConfigError
from attune.record import RunFolder
from attune.train.sinks import SINKS
from attune.train.trackers import NAMES, Trackers, check_trackers, numbers_of, open_trackers, settings_of
from attune.types import Alarm, ProbeRecord, StepRecord, ValidRecord

ALARM = Alarm("G1", "overfit", 3, "warning", 2.5, 2.0, "Validation loss rises.", "Set --early_stop.patience 3.")
VALID = ValidRecord(step=2, val_loss=1.5, val_accuracy=0.5, val_perplexity=4.5, val_rows=5, val_tokens=50)
PROBE = ProbeRecord(step=2, probe_loss=1.0, probe_accuracy=0.5, opener="Sure! Here", scores={"field_accuracy": 0.75})
quiet = pytest.mark.filterwarnings("ignore")  # what the trackers' own packages warn of is theirs


def step(number: int) -> StepRecord:
    """Return the record of a step whose loss tells its number."""
    return StepRecord(
        step=number,
        loss=1 / number,
        accuracy=0.5,
        perplexity=3.0,
        learning_rate=1e-3,
        epoch=number / 4,
        train_flos=1e9,
        grad_norm=1.0,
        learned_tokens=10,
        tokens=20,
        tokens_per_s=100.0,
        memory_gb=1.0,
    )


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A new run folder, on a machine whose user has set nothing for any tracker."""
    for name in ("WANDB_MODE", "WANDB_DIR", "WANDB_API_KEY", "MLFLOW_TRACKING_URI", "TRACKIO_SPACE_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    return RunFolder.create(tmp_path / "run")


def to(*names: str) -> Config:
    """Return a config that sends to trackers."""
    return Config().with_values({"log.to": list(names), "seed": 7})


def train_and_resume(config: Config, run: RunFolder) -> None:
    """Tell the trackers of three steps with a validation, of a stop, and of steps 3 and 4 after the resume."""
    trackers = open_trackers(config, run, resumed=False)
    for record in (step(1), step(2), VALID, PROBE, step(3)):
        trackers.record(record)
    trackers.alarm(ALARM)
    trackers.close({"status": "stopped", "steps": 3, "best_step": 2})
    trackers = open_trackers(config, run, resumed=True)
    for record in (step(3), step(4)):
        trackers.record(record)
    trackers.close({"status": "done", "steps": 4, "best_step": 2})
    told = [event["message"] for event in run.read_lines("events.jsonl")]
    assert len(told) == 2 * len(config.log.to), told  # where the numbers go, each time, and of no failure


class Keeper:
    """A sink that keeps what it gets, or fails at each."""

    known_as = where = "keeper"

    def __init__(self, *, fails: bool = False) -> None:
        self.got: list[Any] = []
        self.fails = fails

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Keep the numbers of a step."""
        if self.fails:
            raise OSError("no space\nleft")
        self.got.append((step, values["train/loss"]))

    def warn(self, alarm: Alarm) -> None:
        """Keep an alarm."""
        self.got.append(alarm.id)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Keep how it ended."""
        self.got.append(result["status"])


def test_one_that_fails_is_dropped_with_a_note() -> None:
    """It is told of once, in one line; the others get everything to the end."""
    notes: list[str] = []
    good, bad = Keeper(), Keeper(fails=True)
    trackers = Trackers({"wandb": bad, "tensorboard": good}, notes.append)
    trackers.record(step(1))
    trackers.record(step(2))
    trackers.alarm(ALARM)
    trackers.close({"status": "done"})
    trackers.close({"status": "done"})
    assert good.got == [(1, 1.0), (2, 0.5), "G1", "done"]
    assert bad.got == []
    assert len(notes) == 1
    assert notes[0].startswith("wandb failed and is told nothing more (OSError: no space); the run goes on")


def test_names_of_numbers() -> None:
    """Each kind of record has its group; scores stand among the guards, texts and what was not measured nowhere."""
    assert numbers_of(step(4))["train/loss"] == 0.25
    assert {"train/mfu", "train/replay_loss", "train/step"} & set(numbers_of(step(4))) == set()
    assert numbers_of(VALID)["val/loss"] == 1.5
    guards = numbers_of(PROBE)
    assert (guards["guards/probe_loss"], guards["guards/field_accuracy"]) == (1.0, 0.75)
    assert {"guards/opener", "guards/kl_task", "guards/scores"} & set(guards) == set()


def test_every_setting_goes_along() -> None:
    """A tracker shows the whole config, each setting by its dotted name."""
    settings = settings_of(to("wandb"))
    assert set(settings) == set(setting_fields())
    assert (settings["seed"], settings["train.epochs"], settings["log.to"]) == (7, 3.0, "['wandb']")


@pytest.mark.parametrize("name", SINKS)
def test_a_missing_package_is_refused(name: str, run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names what to install, before anything is written."""
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf'log\.to: {name} is not installed: pip install "attune-sft\[{name}\]"'):
        open_trackers(to(name), run, resumed=False)
    assert list(run.path.iterdir()) == []


def test_a_folder_of_its_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that a tracker left in the working directory does not pass for the tracker."""
    monkeypatch.syspath_prepend(tmp_path)
    absent = [name for name in SINKS if importlib.util.find_spec(name) is None]
    for name in absent:
        (tmp_path / name).mkdir()
        importlib.invalidate_caches()
        with pytest.raises(ConfigError, match="is not installed"):
            check_trackers(to(name))


def test_no_tracker_costs_nothing(run: RunFolder) -> None:
    """Without log.to nothing is written."""
    trackers = open_trackers(Config(), run, resumed=False)
    trackers.record(step(1))
    trackers.close({"status": "done"})
    assert list(run.path.iterdir()) == []


@quiet
def test_tensorboard(run: RunFolder) -> None:
    """TensorBoard's own reader finds each step once, also those done again after the resume."""
    pytest.importorskip("tensorboard")
    train_and_resume(to("tensorboard"), run)
    reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    found = reader.EventAccumulator(str(run.path / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    losses = [(event.step, event.value) for event in found.Scalars("train/loss")]
    assert losses == [(n, pytest.approx(1 / n)) for n in (1, 2, 3, 4)]
    assert [(event.step, event.value) for event in found.Scalars("val/loss")] == [(2, 1.5)]
    assert [(event.step, event.value) for event in found.Scalars("guards/field_accuracy")] == [(2, 0.75)]
    tags = found.Tags()["tensors"]
    assert {"config", "_hparams_/session_start_info", "result"} <= set(tags)
    config = found.Tensors("config")[0].tensor_proto.string_val[0].decode()
    assert "| seed | 7 |" in config


@quiet
def test_tensorboard_shows_alarms(run: RunFolder) -> None:
    """An alarm is a text of its step."""
    pytest.importorskip("tensorboard")
    trackers = open_trackers(to("tensorboard"), run, resumed=False)
    trackers.alarm(ALARM)
    trackers.close({"status": "done", "steps": 3, "best_step": 2})
    reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    found = reader.EventAccumulator(str(run.path / "tensorboard"))
    found.Reload()
    (event,) = found.Tensors("alarms/G1 overfit")
    assert event.step == 3
    assert event.tensor_proto.string_val[0] == b"warning: Validation loss rises. Set --early_stop.patience 3."


@quiet
def test_wandb_offline(run: RunFolder) -> None:
    """Without an account wandb writes into the run folder; the resumed part bears the same id."""
    pytest.importorskip("wandb")
    train_and_resume(to("wandb"), run)
    known_as = run.read_json(NAMES)["wandb"]
    parts = sorted((run.path / "wandb").glob(f"offline-run-*-{known_as}"))
    assert 1 <= len(parts) <= 2  # one where both began in the same second
    written = b"".join(file.read_bytes() for part in parts for file in part.glob("*.wandb"))
    for text in (b"train/loss", b"val/loss", b"guards/field_accuracy", b"G1 overfit", b"train.learning_rate"):
        assert text in written
    note = run.read_lines("events.jsonl")[0]["message"]
    assert Path(note.rpartition("wandb sync ")[2]) in parts


@quiet
def test_mlflow(run: RunFolder) -> None:
    """The run folder has a database with the metrics, settings and alarms of one run, which ends as finished."""
    mlflow = pytest.importorskip("mlflow")
    train_and_resume(to("mlflow"), run)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{run.path}/mlflow.db")
    known_as = run.read_json(NAMES)["mlflow"]
    experiment = client.get_experiment_by_name("attune")
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_id, found.info.run_name, found.info.status) == (known_as, "run", "FINISHED")
    losses = {metric.step: metric.value for metric in client.get_metric_history(known_as, "train/loss")}
    assert losses == {n: 1 / n for n in (1, 2, 3, 4)}
    assert found.data.metrics["guards/field_accuracy"] == 0.75
    assert (found.data.params["seed"], found.data.tags["best_step"]) == ("7", "2")
    assert "Validation loss rises" in found.data.tags["alarm.G1"]


@quiet
def test_mlflow_that_breaks_in_mid_run(run: RunFolder) -> None:
    """A request that fails is told as a note; nothing is raised."""
    pytest.importorskip("mlflow")
    notes: list[str] = []
    trackers = open_trackers(to("mlflow"), run, resumed=False, tell=lambda _, text: notes.append(text))
    with sqlite3.connect(run.path / "mlflow.db") as database:
        database.execute("DROP TABLE metrics")
    trackers.record(step(1))
    trackers.close({"status": "done", "steps": 1, "best_step": 1})
    assert "mlflow failed and is told nothing more" in notes[1]


@quiet
def test_a_server_that_is_not_there_is_refused(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracker that cannot start is an error before training; what others began is taken away again."""
    pytest.importorskip("mlflow")
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ConfigError, match=r"log\.to: mlflow cannot start"):
        open_trackers(to("tensorboard", "mlflow"), run, resumed=False)
    assert list(run.path.iterdir()) == []


@quiet
def test_trackio(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Trackio's database has one run with all steps and the alarm; nothing is printed where --json writes."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when trackio is imported
    pytest.importorskip("trackio")
    capsys.readouterr()
    train_and_resume(to("trackio"), run)
    assert capsys.readouterr().out == ""
    name = run.read_json(NAMES)["trackio"]
    folder = importlib.import_module("trackio.utils").TRACKIO_DIR
    with sqlite3.connect(folder / "attune.db") as database:
        rows = database.execute("SELECT step, metrics FROM metrics WHERE run_name = ?", [name]).fetchall()
        alerts = database.execute("SELECT title, level, step FROM alerts WHERE run_name = ?", [name]).fetchall()
    steps = {number: values["train/loss"] for number, row in rows if "train/loss" in (values := json.loads(row))}
    assert steps == {n: 1 / n for n in (1, 2, 3, 4)}
    assert alerts == [("G1 overfit", "warn", 3)]
