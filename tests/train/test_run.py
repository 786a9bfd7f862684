"""A run refuses what would spoil it, stops in good order, goes on, and its folder always says how far it is."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from attune.config import Config
from attune.errors import DataError, Interrupted, RefusedError, TrainingError
from attune.record import RunFolder
from attune.train.run import finetune, resume
from attune.train.session import Session
from attune.types import StepRecord
from tests.tiny import small_run, write_model_folder

SOURCE = Path(__file__).resolve().parents[2] / "src"
STEPS = 6


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with dropout."""
    return write_model_folder(tmp_path_factory.mktemp("base"), dropout=0.2)


@pytest.fixture
def config(tmp_path: Path, base: Path) -> Config:
    """A run of six steps with validation rows."""
    wishes = {"train.steps": STEPS, "valid.every": 2, "checkpoint.every": 2, "guards.enabled": False}
    return Config().with_values(small_run(tmp_path, base, rows=12, valid=3) | wishes)


def read(config: Config, name: str) -> Any:
    """Return a JSON file of the run."""
    return json.loads((Path(config.out) / name).read_text())


def weights(folder: Path) -> bytes:
    """Return the tuned weights."""
    return (folder / "model" / "model.safetensors").read_bytes()


def sender(number: signal.Signals, step: int, *, times: int = 1) -> Callable[[str, Any], None]:
    """Return a listener that signals this process right after a step."""

    def listen(kind: str, payload: Any) -> None:
        if kind == "step" and payload.step == step:
            for _ in range(times):
                signal.raise_signal(number)

    return listen


def test_the_result_is_what_was_recorded(config: Config) -> None:
    """Training metrics are those of the last step, validation metrics those of the best; the file is the result."""
    run = finetune(config)
    assert run.result == read(config, "result.json")
    records = RunFolder.open(run.folder).read_lines("metrics.jsonl")
    steps = [record for record in records if "loss" in record]
    valids = [record for record in records if "val_loss" in record]
    assert [record["step"] for record in steps] == list(range(1, STEPS + 1))
    assert [record["step"] for record in valids] == [0, 2, 4, 6]
    best = min(valids[1:], key=lambda record: record["val_loss"])
    result = run.result
    assert (result["status"], result["steps"], result["total_steps"]) == ("done", STEPS, STEPS)
    assert result["best_step"] == best["step"]
    assert result["metrics"]["val_loss"] == best["val_loss"]
    assert result["metrics"]["loss"] == steps[-1]["loss"]
    history = read(config, "trainer_state.json")["log_history"]
    assert [entry["step"] for entry in history] == [record["step"] for record in records]
    assert any("eval_loss" in entry for entry in history)


def test_the_folder_follows_the_run(config: Config) -> None:
    """At every validation result.json says how far the run is and which step is the best so far."""
    seen: list[tuple[str, int, int]] = []

    def listen(kind: str, payload: Any) -> None:
        if kind == "recorded":
            result = read(config, "result.json")
            seen.append((result["status"], result["steps"], result["best_step"]))

    finetune(config, on_event=listen)
    assert [(status, step) for status, step, _ in seen] == [("running", step) for step in (0, 2, 4, 6)]
    assert [best > 0 for *_, best in seen] == [False, True, True, True]


def test_a_used_folder_is_refused(config: Config) -> None:
    """A run is never overwritten."""
    finetune(config)
    before = {file.name: file.read_bytes() for file in Path(config.out).iterdir() if file.is_file()}
    with pytest.raises(RefusedError, match="never overwritten"):
        finetune(config)
    assert {file.name: file.read_bytes() for file in Path(config.out).iterdir() if file.is_file()} == before


def test_a_fault_in_the_rows_leaves_nothing_behind(config: Config) -> None:
    """No folder is left by a run that never started."""
    with Path(str(config.data.train)).open("a") as file:
        file.write("{\n")
    with pytest.raises(DataError, match=r"rows\.jsonl:13:"):
        finetune(config)
    assert not Path(config.out).exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
@pytest.mark.parametrize("step", [1, 4])
def test_a_stopped_run_goes_on_to_the_same_end(
    config: Config, tmp_path: Path, number: signal.Signals, code: int, step: int
) -> None:
    """A signal lets the step end, saves it and says how to go on; resumed, the weights are those of a straight run."""
    with pytest.raises(Interrupted, match=f"{step} of {STEPS} steps are done and saved.*attune resume") as caught:
        finetune(config, on_event=sender(number, step))
    assert caught.value.exit_code == code
    result = read(config, "result.json")
    assert (result["status"], result["steps"]) == ("stopped", step)
    assert (Path(config.out) / "checkpoints" / f"step-{step}").is_dir()
    assert not (Path(config.out) / "model").exists()
    assert signal.getsignal(number) in {signal.SIG_DFL, signal.default_int_handler}, "the handlers are put back"
    assert resume(config.out).result["status"] == "done"
    straight = finetune(config.with_values({"out": str(tmp_path / "straight")}))
    assert weights(Path(config.out)) == weights(straight.folder)


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the next step be launched before a record is read, as on a GPU."""
    monkeypatch.setattr(Session, "works_beside", True)


def test_a_run_that_launches_ahead_is_the_same(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is recorded, saved and tuned does not depend on when the numbers of a step are read."""
    config = config.with_values({"train.steps": 7, "valid.every": 3, "checkpoint.every": 2, "checkpoint.keep": 9})
    ahead: list[bool] = []
    runs = []
    for name, is_beside in (("waits", False), ("runs", True)):
        monkeypatch.setattr(Session, "works_beside", is_beside)
        runs.append(finetune(config.with_values({"out": str(tmp_path / name)})).folder)
    assert weights(runs[0]) == weights(runs[1])
    one, two = ([*(folder / "checkpoints").iterdir()] for folder in runs)
    assert {path.name for path in one} == {path.name for path in two} >= {"step-2", "step-4", "step-6", "step-7"}
    kept = [RunFolder.open(folder).read_lines("metrics.jsonl") for folder in runs]
    for line in (*kept[0], *kept[1]):
        for name in ("time", "tokens_per_s", "memory_gb"):
            line.pop(name, None)
    assert kept[0] == kept[1]
    monkeypatch.setattr(Session, "works_beside", True)
    config = config.with_values({"out": str(tmp_path / "seen")})
    train = Session.train

    def watched(session: Session, **options: Any) -> Iterator[StepRecord]:
        for record in train(session, **options):
            ahead.append(session.is_ahead)
            yield record

    monkeypatch.setattr(Session, "train", watched)
    finetune(config)
    assert ahead == [True, False, False, False, True, False, False], "it rests where something is due: 2, 3, 4, 6, 7"


@pytest.mark.usefixtures("beside")
def test_a_run_that_launched_ahead_stops_a_step_later(config: Config, tmp_path: Path) -> None:
    """The step that was launched when the signal came is done and saved, too; resumed, the end is the same."""
    config = config.with_values({"valid.every": STEPS, "checkpoint.every": STEPS})
    with pytest.raises(Interrupted, match=f"2 of {STEPS} steps are done and saved"):
        finetune(config, on_event=sender(signal.SIGTERM, 1))
    assert resume(config.out).result["status"] == "done"
    straight = finetune(config.with_values({"out": str(tmp_path / "straight")}))
    assert weights(Path(config.out)) == weights(straight.folder)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_steps_are_launched_ahead(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that launches ahead records the losses of one that waits, but for rounding."""
    config = config.with_values({"device": "cuda", "precision": "float32"})
    losses = []
    for is_beside in (True, False):
        if not is_beside:
            monkeypatch.setattr(Session, "works_beside", False)
        run = finetune(config.with_values({"out": str(tmp_path / str(is_beside))}))
        lines = RunFolder.open(run.folder).read_lines("metrics.jsonl")
        losses.append([line.get("loss", line.get("val_loss")) for line in lines])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_second_ctrl_c_stops_at_once(config: Config) -> None:
    """It does not wait for the step to be saved; the run can still be resumed from its last checkpoint."""
    with pytest.raises(KeyboardInterrupt):
        finetune(config, on_event=sender(signal.SIGINT, 3, times=2))
    assert not (Path(config.out) / "checkpoints" / "step-3").exists()
    assert resume(config.out).result["steps"] == STEPS


def test_sigterm_from_outside_ends_with_75(config: Config, tmp_path: Path) -> None:
    """The whole command, stopped as a cluster does it: saved, exit code 75, and resumed to the same end."""
    config = config.with_values({"train.steps": 80, "valid.every": 80, "checkpoint.every": 80})
    words = [f"{key}={value}" for key, value in settings_of(config).items()]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-m", "attune", "train", *words, "log.every=1"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("step"):
                break
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert f"attune resume {config.out}" in err
    assert 0 < read(config, "result.json")["steps"] < 80
    assert resume(config.out).result["steps"] == 80
    straight = finetune(config.with_values({"out": str(tmp_path / "straight")}))
    assert weights(Path(config.out)) == weights(straight.folder)


def settings_of(config: Config) -> dict[str, Any]:
    """Return the settings that differ from their defaults, by dotted name."""
    changed: dict[str, Any] = {}
    for key, value in config.model_dump(exclude_defaults=True).items():
        changed |= {f"{key}.{name}": item for name, item in value.items()} if isinstance(value, dict) else {key: value}
    return changed


def test_a_finished_run_is_not_resumed(config: Config) -> None:
    """There is nothing to go on with; the next command is named."""
    finetune(config)
    with pytest.raises(RefusedError, match=r"is finished \(6 steps\)\. Next: attune eval"):
        resume(config.out)


@pytest.mark.parametrize("change", ["edit", "remove"])
def test_changed_rows_are_refused(config: Config, change: str) -> None:
    """A run never mixes two data sets; with the file restored it goes on."""
    with pytest.raises(Interrupted):
        finetune(config, on_event=sender(signal.SIGTERM, 2))
    rows = Path(str(config.data.train))
    before = rows.read_bytes()
    if change == "edit":
        rows.write_bytes(before.replace(b"stone", b"stane"))
    else:
        rows.unlink()
    with pytest.raises(RefusedError, match="changed since the run started" if change == "edit" else "is gone"):
        resume(config.out)
    rows.write_bytes(before)
    assert resume(config.out).result["status"] == "done"


def test_two_processes_do_not_share_a_run(config: Config) -> None:
    """While one holds the run's lock another is refused."""
    with pytest.raises(Interrupted):
        finetune(config, on_event=sender(signal.SIGTERM, 2))
    with (Path(config.out) / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RefusedError, match="in use by another process"):
            resume(config.out)
    assert resume(config.out).result["status"] == "done"


def test_numbers_that_go_wrong_fail_the_run(config: Config) -> None:
    """Divergence ends the run with exit code 5, and the folder says at which step and why."""
    with pytest.raises(TrainingError, match=r"step \d: loss") as caught:
        finetune(config.with_values({"train.learning_rate": 1e30, "train.warmup": 0}))
    assert caught.value.exit_code == 5
    assert read(config, "result.json")["status"] == "failed"
    (event,) = [e for e in RunFolder.open(config.out).read_lines("events.jsonl") if e["kind"] == "error"]
    assert "nothing was updated" in event["message"]
    assert not (Path(config.out) / "model").exists()


def test_no_progress_stops_early(config: Config) -> None:
    """With patience 1 the first validation that is no better ends the run; the best step's weights are handed on."""
    settings = {"train.steps": 40, "train.learning_rate": 0.5, "valid.every": 1, "early_stop.patience": 1}
    run = finetune(config.with_values(settings))
    assert run.result["stopped_early"] is True
    assert run.result["status"] == "done"
    assert run.result["best_step"] == run.result["steps"] - 1 < 39
