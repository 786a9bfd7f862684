"""What watches over a run records, judges and stops it as asked, and never changes what is trained."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from attune.config import Config
from attune.errors import ConfigError, RefusedError, TrainingError
from attune.record import RunFolder
from attune.train import loop
from attune.train.run import finetune, resume
from attune.types import StepRecord
from tests.tiny import small_run, write_model_folder

STEPS = 6


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that knows nothing."""
    return write_model_folder(tmp_path_factory.mktemp("base"), dropout=0.2)


@pytest.fixture
def config(tmp_path: Path, base: Path) -> Config:
    """A run of six steps with ten validation rows, of which four are answered."""
    wishes = {"train.steps": STEPS, "valid.every": 3, "guards.prompts": 4, "guards.max_new_tokens": 8}
    return Config().with_values(small_run(tmp_path, base, rows=24, valid=10) | wishes)


def lines(config: Config, name: str) -> list[dict[str, Any]]:
    """Return the records of a file of the run."""
    return RunFolder.open(config.out).read_lines(name)


def spoil(monkeypatch: pytest.MonkeyPatch, *calls: int) -> None:
    """Make the loss of some micro-batches, counted from 1, no number; a step of this run is one micro-batch."""
    plain, seen = loop._backward, [0]

    def backward(*given: Any, **named: Any) -> torch.Tensor:
        seen[0] += 1
        found = plain(*given, **named)
        if seen[0] in calls:
            next(weight for weight in given[0].parameters() if weight.grad is not None).grad.fill_(math.nan)
            return found * math.nan
        return found

    monkeypatch.setattr(loop, "_backward", backward)


def test_weights_are_the_same_with_and_without_guards(config: Config, tmp_path: Path) -> None:
    """With dropout, every step and the weights agree to the bit; without guards nothing is probed."""
    other = config.with_values({"out": str(tmp_path / "off"), "guards.enabled": False})
    finetune(config)
    finetune(other)
    weights = [(Path(one.out) / "model" / "model.safetensors").read_bytes() for one in (config, other)]
    assert weights[0] == weights[1]
    norms = [[line["grad_norm"] for line in lines(one, "metrics.jsonl") if "loss" in line] for one in (config, other)]
    assert norms[0] == norms[1]
    assert any("probe_loss" in line for line in lines(config, "metrics.jsonl"))
    assert not any("probe_loss" in line for line in lines(other, "metrics.jsonl"))
    assert not (tmp_path / "off" / "samples.jsonl").exists()


def test_each_validation_leaves_its_files(config: Config) -> None:
    """Row losses, the loss in parts, the rows at both ends and the answers to the same prompts, the base's first."""
    finetune(config)
    assert [line["step"] for line in lines(config, "rows.jsonl")] == [0, 3, 6]
    assert all(len(line["val_row_loss"]) == 10 for line in lines(config, "rows.jsonl"))
    for line in lines(config, "breakdown.jsonl"):
        tokens = {by: sum(part["tokens"] for part in line["parts"] if part["by"] == by) for by in ("turn", "length")}
        assert tokens["turn"] == tokens["length"] > 0
    extremes = json.loads((Path(config.out) / "extremes.json").read_text())
    assert extremes["step"] == STEPS
    assert extremes["worst"][0]["loss"] >= extremes["best"][0]["loss"]
    samples = lines(config, "samples.jsonl")
    prompts = {system: {s["prompt"] for s in samples if s["system"] == system} for system in ("base", "tuned")}
    assert prompts["base"] == prompts["tuned"]
    assert len(samples) == 3 * 4


def test_a_resumed_run_records_nothing_twice(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was recorded after the checkpoint is taken out, and recorded again."""
    spoil(monkeypatch, 5)
    with pytest.raises(TrainingError):
        finetune(config)
    monkeypatch.undo()
    resume(config.out)
    steps = [line["step"] for line in lines(config, "metrics.jsonl") if "grad_norm" in line]
    assert steps == list(range(1, STEPS + 1))
    assert [line["step"] for line in lines(config, "rows.jsonl")] == [0, 3, 6]
    assert len(lines(config, "samples.jsonl")) == 3 * 4
    assert not [alarm for alarm in lines(config, "alarms.jsonl") if alarm["id"] == "G6"]


def test_a_step_that_is_not_finite_ends_the_run_with_its_rows(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The alarm names the rows, the result has it, and the last checkpoint is before it."""
    spoil(monkeypatch, 5)
    with pytest.raises(TrainingError, match="step 5"):
        finetune(config)
    (alarm,) = (alarm for alarm in lines(config, "alarms.jsonl") if alarm["id"] == "G6")
    assert (alarm["step"], alarm["severity"], len(alarm["rows"])) == (5, "error", 4)
    (batch,) = lines(config, "batches.jsonl")
    assert batch["rows"] == alarm["rows"]
    result = json.loads((Path(config.out) / "result.json").read_text())
    assert (result["status"], result["steps"]) == ("failed", 4)
    assert alarm in result["alarms"]


def test_a_step_may_be_passed_over(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without G6 in guards.stop_on two steps in a row leave no trace in the weights, the third ends the run."""
    config = config.with_values({"guards.stop_on": []})
    spoil(monkeypatch, 2, 3)
    result = finetune(config).result
    assert (result["status"], result["steps"]) == ("done", STEPS)
    found = [alarm["step"] for alarm in result["alarms"] if alarm["name"] == "not-finite"]
    assert found == [2, 3]
    monkeypatch.undo()
    spoil(monkeypatch, 2, 3, 4)
    with pytest.raises(TrainingError, match="step 4"):
        finetune(config.with_values({"out": config.out + "-2"}))


def test_a_guard_may_stop_the_run_before_it_starts(config: Config) -> None:
    """A model without knowledge is an alarm before training, and ends the run where that was asked for."""
    with pytest.raises(RefusedError, match="strange-text"):
        finetune(config.with_values({"guards.stop_on": ["G8"]}))
    assert not [line for line in lines(config, "metrics.jsonl") if "grad_norm" in line]
    result = finetune(config.with_values({"out": config.out + "-2"})).result
    assert [alarm["name"] for alarm in result["alarms"] if alarm["step"] == 0] == ["strange-text"]


def test_patience_lowers_the_rate_before_it_ends_the_run(config: Config) -> None:
    """With weights that do not move no validation is better: the rate is halved once, then the run stops early."""
    wishes = {"train.steps": 12, "valid.every": 2, "train.learning_rate": 1e-30, "train.schedule": "constant"}
    patience = {"early_stop.patience": 1, "early_stop.reduce": 0.5, "early_stop.reductions": 1, "train.warmup": 0}
    seen: list[StepRecord] = []
    result = finetune(
        config.with_values(wishes | patience),
        on_event=lambda kind, payload: seen.append(payload) if kind == "step" else None,
    ).result
    assert (result["stopped_early"], result["steps"], result["best_step"]) == (True, 6, 2)
    assert [record.learning_rate for record in seen] == pytest.approx([1e-30] * 4 + [5e-31] * 2)


def test_the_best_step_is_chosen_by_answers_where_asked(config: Config) -> None:
    """The metric is the mean score of the answers at each validation."""
    result = finetune(config.with_values({"early_stop.metric": "stop_rate", "valid.every": 1})).result
    probes = {line["step"]: line for line in lines(config, "metrics.jsonl") if "probe_loss" in line}
    scores = {step: probe["scores"]["stop_rate"] for step, probe in probes.items() if step}
    assert scores[result["best_step"]] == max(scores.values())


@pytest.mark.parametrize(
    ("wishes", "text"),
    [
        ({"guards.stop_on": ["G99"]}, "There are: G1 overfit"),
        ({"early_stop.metric": "rouge_l", "guards.enabled": False}, "measured on answers"),
        ({"early_stop.metric": "rouge_l", "guards.prompts": 0}, "measured on answers"),
    ],
)
def test_wishes_that_cannot_be_met(config: Config, wishes: dict[str, Any], text: str) -> None:
    """They are errors before anything is written."""
    with pytest.raises(ConfigError, match=text):
        finetune(config.with_values(wishes))
    assert not Path(config.out).exists()


def test_replay_is_trained_beside_the_rows(config: Config) -> None:
    """Texts that the model wrote are in the folder, their loss is recorded, and a resumed run ends in the same bits."""
    wishes = {"replay.source": "self", "replay.rows": 8, "replay.max_tokens": 24, "checkpoint.every": 2}
    config = config.with_values(wishes)
    finetune(config)
    steps = [line for line in lines(config, "metrics.jsonl") if "grad_norm" in line]
    assert all(line["replay_loss"] > 0 for line in steps)
    assert len(lines(config, "replay/texts.jsonl")) <= 8
    weights = (Path(config.out) / "model" / "model.safetensors").read_bytes()
    plain = config.with_values({"out": config.out + "-2", "replay.source": ""})
    finetune(plain)
    assert (Path(plain.out) / "model" / "model.safetensors").read_bytes() != weights


def test_a_metric_that_does_not_suit_the_answers_is_refused(config: Config) -> None:
    """The error names those that do."""
    with pytest.raises(ConfigError, match="do:\nexact_match"):
        finetune(config.with_values({"early_stop.metric": "json_valid"}))


def test_a_guard_that_was_asked_to_ends_the_run_early(config: Config) -> None:
    """A guard of no numbers ends the run with its best step; the event says which."""
    wishes = {"guards.stop_on": ["forgetting"], "train.steps": 60, "valid.every": 3, "train.learning_rate": 0.03}
    result = finetune(config.with_values(wishes)).result
    (stop,) = (event for event in lines(config, "events.jsonl") if event["kind"] == "stop")
    assert "G4 forgetting" in stop["message"]
    assert (result["stopped_early"], result["status"]) == (True, "done")
    assert result["best_step"] <= result["steps"] < 60


def test_what_truncation_loses_is_counted_in_learned_tokens(config: Config) -> None:
    """A row that is dropped for its long prompt loses its answer, not its prompt: the alarm's share is that of D12."""
    with Path(str(config.data.train)).open("a") as file:
        file.write(json.dumps({"prompt": "p" * 150, "completion": "gone"}) + "\n")
    run = finetune(config.with_values({"train.steps": 1, "data.max_length": 100, "guards.prompts": 0}))
    alarm = next(alarm for alarm in run.result["alarms"] if alarm["name"] == "truncation")
    ledger = lines(config, "ledger.jsonl")[0]["summary"]
    assert ledger["learned_lost"] == len("gone") + 1 < ledger["tokens_lost"]
    assert alarm["figure"] == ledger["learned_lost"] / ledger["learned_in"]
