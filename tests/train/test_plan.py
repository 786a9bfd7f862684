"""A plan: what a run takes, what is chosen so that it fits, and that the estimate is near what is measured."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import attune.train.measure as measuring
import attune.train.plan as planning
from attune.config import Config
from attune.errors import ConfigError, DataError, ModelError
from attune.train.estimate import Footprint, Head, Load, footprint
from attune.train.measure import Measured, Trial
from attune.train.metrics import FlosCounter
from attune.train.plan import Bounds, Choice, choose, plan
from attune.train.replay import Replay
from attune.train.run import finetune, gather
from attune.train.trace import Stored, imagine_model
from attune.train.work import survey_work
from tests.tiny import write_model_folder, write_rows

GB = 10**9


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model folder."""
    return write_model_folder(tmp_path_factory.mktemp("base"))


@pytest.fixture
def config(tmp_path: Path, base: Path) -> Config:
    """Sixty rows and the tiny model."""
    rows = write_rows(tmp_path / "rows.jsonl", 60)
    return Config().with_values({"model": str(base), "data.train": str(rows), "train.steps": 8, "device": "cpu"})


def make_footprint(**changes: Any) -> Footprint:
    """Return a footprint of round numbers: 1 GB of weights, and 1 MB a token in 10 layers."""
    head = Head(width=100, vocabulary=1000, element=2, weight_element=2, trains=False, room=2**20, beside=0, compared=0)
    whole = Footprint(
        weights=GB,
        gradients=GB,
        optimizer=2 * GB,
        stored=Stored(layers=10, layer=1e5, layer_input=1e4, rest=0.0, fixed=0.0),
        working=1e5,
        scores=0.0,
        head=head,
        flos=FlosCounter(1, 1, 1, 1, 1),
        parameters=1,
        heap=1.0,
        passing=0,
        shares=False,
    )
    return replace(whole, **changes)


def load(tokens: int, **changes: Any) -> Load:
    """Return a micro-batch of which a half is learned."""
    return replace(Load(tokens, tokens // 2, tokens, accumulates=False), **changes)


@pytest.mark.parametrize("kind", ["full", "lora", "qlora"])
def test_the_imagined_model_has_the_weights_of_the_real_one(base: Path, kind: str) -> None:
    """Nothing lies in memory, and parameters are those of the folder, the adapter's added."""
    config = Config().with_values({"model": str(base), "precision": "float32", "device": "cpu", "adapter.kind": kind})
    model = imagine_model(base, config)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    trains = sum(p.numel() for p in model.parameters() if p.requires_grad)
    whole = sum(p.numel() for p in model.parameters())
    assert (trains == whole) == (kind == "full")


def test_four_bits_take_less_than_sixteen(base: Path) -> None:
    """The frozen weights of qlora are smaller than those of lora, by what four bits save."""
    found = {}
    for kind in ("lora", "qlora"):
        values = {"model": str(base), "precision": "bfloat16", "device": "cpu", "adapter.kind": kind}
        found[kind] = footprint(base, Config().with_values(values))
    assert found["qlora"].weights < found["lora"].weights
    assert found["qlora"].gradients == found["lora"].gradients


def test_optimizers_take_what_they_say(base: Path) -> None:
    """Two float32 moments take 8 bytes a weight; 8-bit ones less than half; 16-bit weights keep 2 more."""

    def bytes_of(**values: Any) -> float:
        config = Config().with_values({"precision": "float32", "device": "cpu", **values})
        whole = footprint(base, config)
        return whole.optimizer / whole.parameters

    assert bytes_of() == pytest.approx(8, abs=0.01)
    assert 2 < bytes_of(**{"train.optimizer": "adamw_8bit"}) < 4  # small tensors fill no block of 8-bit moments
    assert bytes_of(precision="bfloat16") == pytest.approx(10, abs=0.1)
    assert bytes_of(precision="bfloat16", **{"train.rounding": "stochastic"}) == pytest.approx(8, abs=0.1)


def test_more_tokens_take_more_and_computing_again_takes_less() -> None:
    """Memory grows with tokens and falls with each layer that is computed again."""
    whole = make_footprint()
    totals = [whole.memory(load(tokens)).total for tokens in (1000, 2000, 4000, 8000)]
    assert totals == sorted(totals)
    again = [whole.memory(load(8000), checkpointed=number).activations for number in range(2, 11)]
    assert again == sorted(again, reverse=True)
    assert (
        whole.memory(load(8000), checkpointed=10, offload=True).total < whole.memory(load(8000), checkpointed=10).total
    )


def test_gradients_and_activations_take_turns_in_a_single_micro_batch() -> None:
    """In one micro-batch gradients come as activations go; with several they are there together."""
    whole = make_footprint()
    alone, several = whole.memory(load(8000)), whole.memory(load(8000, accumulates=True))
    assert several.total == several.weights + several.gradients + several.optimizer + several.activations
    assert alone.total < several.total


def test_a_choice_takes_all_tokens_that_fit_before_it_computes_again() -> None:
    """Fewer tokens at once come before layers computed again, down to the comfortable size."""
    bounds = Bounds(least=256, comfort=2048, most=16384, few=0, many=10)
    whole = make_footprint()

    def chosen(free: float) -> Choice:
        return choose(
            bounds,
            lambda choice: whole.memory(load(choice.micro_tokens), checkpointed=choice.checkpointed).total <= free,
        )

    assert chosen(100 * GB) == Choice(16384, 0)
    middle = chosen(12 * GB)
    assert middle.checkpointed == 0
    assert 2048 < middle.micro_tokens < 16384
    tight = chosen(4.5 * GB)
    assert 0 < tight.checkpointed < 10
    assert tight.micro_tokens >= 2048
    tighter = chosen(4.15 * GB)
    assert tighter.checkpointed == 10
    assert tighter.micro_tokens < 2048
    assert chosen(0) == Choice(256, 10)


def test_what_the_user_set_is_not_chosen() -> None:
    """Bounds without room give back what they hold."""
    fixed = Bounds(least=1000, comfort=1000, most=1000, few=3, many=3)
    assert choose(fixed, lambda choice: False) == Choice(1000, 3)
    assert choose(fixed, lambda choice: True) == Choice(1000, 3)


def test_the_worst_micro_batch_is_full_of_the_longest_rows(config: Config) -> None:
    """It holds the longest row, never more than the limit, and leaves less room than the shortest row needs."""
    work = survey_work(gather(config, lambda kind, payload: None))
    pile = work.rows
    for tokens in (300, 500, 1000):
        rows = pile.fill(tokens)
        sizes = pile.sizes[rows]
        assert sizes[0] == work.corpus.lengths.max()
        assert sizes.sum() <= tokens
        assert tokens - sizes.sum() < pile.sizes[-1] or len(rows) == len(pile.sizes)
        assert len(set(rows.tolist())) == len(rows)
    assert len(pile.fill(1)) == 1


def test_the_work_of_a_run_is_the_sum_of_its_steps(config: Config) -> None:
    """Tokens, learned tokens and pairs are those of the rows that the stream deals out."""
    work = survey_work(gather(config, lambda kind, payload: None))
    rows = np.concatenate([work.stream.rows(step) for step in range(1, 9)])
    assert work.trained.row_tokens == work.corpus.lengths[rows].sum()
    assert work.trained.learned_tokens == sum(int(work.corpus.row(int(row))[1].sum()) for row in rows)
    assert work.largest == max(work.corpus.lengths[work.stream.rows(step)].sum() for step in range(1, 9))


def test_a_plan_without_measuring_computes_nothing(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """--no-measure gives the estimate, and no speed."""
    monkeypatch.setattr(measuring, "measure", None)
    document = plan(config, measuring=False)
    assert document["fits"] is True
    assert document["memory_gb"]["measured"] is None
    assert (document["tokens_per_s"], document["hours"], document["error"]) == (None, None, None)
    assert document["config"].keys() == {"train.micro_tokens", "train.checkpointing"}
    assert document["steps"] == 8


def test_a_measured_plan(config: Config) -> None:
    """The largest step really runs, in a process of its own, and gives memory, speed and time."""
    document = plan(config.with_values({"data.share_prefixes": False, "guards.enabled": False}))
    memory = document["memory_gb"]
    assert document["fits"] is True
    assert memory["measured"] > 0
    assert document["error"] == pytest.approx(memory["total"] / memory["measured"] - 1, abs=0.1)
    assert document["tokens_per_s"] > 0
    valid = 9  # validations of 3 held-out rows, at a third of a training token each
    seen = document["hours"] * 3600 * document["tokens_per_s"]
    assert document["tokens"] * 0.999 < seen < document["tokens"] + valid * 3 * 100
    json.dumps(document)


def test_a_wrong_estimate_is_corrected_by_the_measurement(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the step takes twice what was expected and does not fit, a smaller choice is measured, and it fits."""
    tried: list[Choice] = []
    wide = config.with_values({"train.batch_rows": 60})
    free = int(1.4 * GB * plan(wide, measuring=False)["memory_gb"]["total"])

    def measure(plan_of: Any, choice: Choice) -> Measured:
        tried.append(choice)
        peak = 2 * plan_of.memory(choice).total
        return Measured(peak if peak <= free else None, 100.0, 1.0)

    monkeypatch.setattr(measuring, "free_bytes", lambda device: free)
    monkeypatch.setattr(planning._Plan, "_measure", measure)
    monkeypatch.setitem(planning.COMFORT, "cpu", 256)
    document = plan(wide)
    assert document["fits"] is True
    assert 1 < len(tried) <= planning.TRIES
    assert tried[-1].micro_tokens < tried[0].micro_tokens
    assert document["micro_tokens"] == tried[-1].micro_tokens
    assert document["memory_gb"]["measured"] * GB <= free


def test_what_cannot_fit_is_not_tried_and_says_what_could(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Far too little memory: nothing is computed, and a milder setting that would fit is named if there is one."""
    monkeypatch.setattr(measuring, "measure", None)
    monkeypatch.setattr(measuring, "free_bytes", lambda device: 1000)
    document = plan(config)
    assert document["fits"] is False
    assert document["instead"] == []
    whole = plan(config, measuring=False)["memory_gb"]
    monkeypatch.setattr(measuring, "free_bytes", lambda device: int(GB * (whole["weights"] + 0.6 * whole["optimizer"])))
    document = plan(config.with_values({"train.micro_tokens": 128}), measuring=False)
    assert document["fits"] is False
    assert len(document["instead"]) <= 1


@pytest.mark.parametrize("share", [True, False])
def test_operations_are_those_that_training_counts(config: Config, tmp_path: Path, share: bool) -> None:
    """Shared beginnings count once and replayed texts count: what is planned is what the finished run has recorded."""
    rows = [{"prompt": f"{'the same long beginning ' * 3}{n}", "completion": "yes " * (n % 5 + 1)} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "general.txt").write_text("\n\n".join(f"Of ships and winds, part {n}." for n in range(20)))
    wishes = {"data.share_prefixes": share, "replay.source": str(tmp_path / "general.txt"), "guards.enabled": False}
    config = config.with_values({**wishes, "out": str(tmp_path / "run"), "data.cache": "off"})
    document = plan(config, measuring=False)
    assert (document["computed_tokens"] < document["tokens"]) == share
    done = finetune(config.with_values(document["config"])).result
    assert document["train_flos"] == pytest.approx(done["metrics"]["train_flos"], rel=1e-6)


def test_replayed_texts_are_measured(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worst steps have the longest texts that a micro-batch holds beside them, later ones those of a usual step."""
    trials: list[tuple[Trial, Config]] = []

    def keep(trial: Trial, config: Config, base: Path) -> Measured:
        trials.append((trial, config))
        return Measured(10**6, 100.0, 1.0)

    monkeypatch.setattr(measuring, "measure", keep)
    plan(config.with_values({"replay.source": "self", "replay.rows": 9, "replay.max_tokens": 40, "replay.share": 0.3}))
    trial, settled = trials[0]
    seen: list[int] = []
    usual = Replay.batches_of

    def batches_of(self: Replay, rows: Any, micro_tokens: int) -> Any:
        found = usual(self, rows, micro_tokens)
        assert all(base is not None for _, base in found), "the divergence is computed, too"
        seen.append(len(rows))
        return found

    monkeypatch.setattr(Replay, "batches_of", batches_of)
    measuring._write(trial, settled, Path(settled.model), tmp_path)
    assert measuring.compute(tmp_path).peak is not None
    assert trial.replay is not None
    assert trial.worst_texts is not None
    assert seen == [len(trial.worst_texts)] * 2 + [len(trial.replay.rows(step)) for step in (1, 2, 3)]
    assert len(trial.worst_texts) > 1


def test_the_time_counts_replay_and_guards(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards take their share of the time of the steps; replay is part of the measured speed and is not added again."""
    monkeypatch.setattr(measuring, "measure", lambda *_: Measured(10**6, 100.0, 1e9))
    alone = plan(config.with_values({"guards.enabled": False}))["hours"]
    assert plan(config)["hours"] > alone
    beside = config.with_values({"guards.enabled": False, "replay.source": "self", "replay.share": 2.0})
    assert plan(beside)["hours"] == pytest.approx(alone, rel=0.01)


@pytest.mark.parametrize("settings", [{"train.micro_tokens": 10**6}, {"train.gradient_release": True}])
def test_fewer_tokens_at_once_are_the_first_advice(
    config: Config, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the user's own setting makes the step too large, what leaves the result as it is comes before the rest."""
    wide = config.with_values({"train.batch_rows": 60, "train.clip": 1e6})
    free = int(0.5 * GB * plan(wide.with_values(settings), measuring=False)["memory_gb"]["total"])
    monkeypatch.setattr(measuring, "free_bytes", lambda device: free)
    monkeypatch.setitem(planning.COMFORT, "cpu", 256)
    wished = wide.with_values({**settings, "train.checkpointing": "none"})
    document = plan(wished, measuring=False)
    assert document["fits"] is False
    (change,) = document["instead"]
    assert change["config"]["train.micro_tokens"] < document["micro_tokens"]
    assert ("train.gradient_release" in change["config"]) == ("train.gradient_release" in settings)
    assert plan(wished.with_values(change["config"]), measuring=False)["fits"] is True


def test_faults_of_the_child_are_those_of_training(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wish that only the loaded model can refuse is told as training tells it; here the child is this process."""

    def here(words: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        assert words[:-1] == [sys.executable, "-m", "attune.train.measure"]
        try:
            measuring.main(Path(words[-1]))
        except Exception:  # a process ends with it and leaves no result
            return subprocess.CompletedProcess(words, 1)
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(measuring.subprocess, "run", here)  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"train\.kernels: fused layers cannot run here"):
        plan(config.with_values({"train.kernels": "fused"}))


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"attention": "varlen"}, ModelError),
        ({"train.fp8": True}, ModelError),
        ({"train.checkpointing": 3}, ConfigError),
        ({"train.gradient_release": True, "train.clip": 1e6, "train.micro_tokens": 128}, ConfigError),
        ({"replay.source": "self", "train.gradient_release": True, "train.clip": 1e6}, ConfigError),
        ({"replay.source": "missing.jsonl"}, DataError),
    ],
)
def test_what_training_refuses_is_not_planned(
    config: Config, settings: dict[str, Any], error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wishes that device, model or rows cannot meet are errors without a measurement too."""
    monkeypatch.setattr(measuring, "measure", None)
    with pytest.raises(error, match=str(next(iter(settings)))):
        plan(config.with_values(settings), measuring=False)
