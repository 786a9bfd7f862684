"""A session does what the config wishes with memory and shared beginnings, says what it chose, and goes on the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from attune.config import Config
from attune.data.encoding.tokenizer import load_tokenizer
from attune.data.prepare import prepare
from attune.errors import ConfigError
from attune.model.checkpointing import decoder_layers
from attune.model.folder import locate, model_length
from attune.model.loss import LossOptions, loss_sums, token_losses
from attune.record import RunFolder
from attune.train.checkpoint import find_newest
from attune.train.defaults import MICRO_TOKENS
from attune.train.run import finetune, gather, resume
from attune.train.session import Session
from attune.types import ValidRecord
from attune.world import World
from tests.tiny import write_model_folder

STEPS = 3


def write_alike(path: Path, rows: int) -> Path:
    """Write rows that begin with the same instruction of over 60 tokens (a letter is one)."""
    words = "Say the number of the row that you read here, in words, and nothing else."
    lines = [{"prompt": f"{words} Row {row}:", "completion": f"{row} it is"} for row in range(rows)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Three steps of four rows that begin alike; float64, so that only mathematics can differ."""
    base = write_model_folder(tmp_path / "base", dtype=torch.float64)
    return Config(model=str(base), out=str(tmp_path / "run"), device="cpu", precision="float64").with_values(
        {
            "data.train": str(write_alike(tmp_path / "rows.jsonl", 12)),
            "data.valid_share": 0.0,
            "data.cache": "off",
            "train.steps": STEPS,
            "train.batch_rows": 4,
            "train.learning_rate": 0.01,
            "train.micro_tokens": 4096,
            "checkpoint.every": 1,
            "guards.enabled": False,
        }
    )


def open_session(config: Config) -> Session:
    """Return the session of a run that is not recorded."""
    base = locate(config.model)
    prepared = prepare(config, load_tokenizer(base), model_length=model_length(base))
    return Session(config, prepared, base=base, world=World())


def trained(config: Config, **settings: Any) -> tuple[Session, list[Any]]:
    """Train to the end with some settings changed; return the session and its records."""
    session = open_session(config.with_values({key.replace("__", "."): value for key, value in settings.items()}))
    return session, list(session.train())


def same(one: Session, two: Session) -> None:
    """Assert that two sessions ended with the same weights, but for rounding."""
    for mine, other in zip(one.model.parameters(), two.model.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)


def test_shared_beginnings_change_only_what_is_computed(config: Config) -> None:
    """On by default: fewer positions are computed and the saving is told; losses, tokens and weights stay."""
    shared, records = trained(config)
    plain, others = trained(config, data__share_prefixes=False)
    assert shared.shares and not plain.shares
    same(shared, plain)
    for one, two in zip(records, others, strict=True):
        assert one.loss == pytest.approx(two.loss, rel=1e-9)
        assert (one.tokens, one.learned_tokens) == (two.tokens, two.learned_tokens)
        assert one.computed_tokens < 0.6 * two.computed_tokens == 0.6 * two.tokens
        assert one.train_flos < two.train_flos
    (note,) = [note for note in shared.take_notes() if "shared" in note]
    saved = 1 - records[0].computed_tokens / records[0].tokens
    assert note == f"shared beginnings save {saved:.0%} of the tokens of step 1"
    assert not plain.take_notes()


@pytest.mark.parametrize("wish", ["auto", True])
@pytest.mark.parametrize("where", ["model", "adapter"])
def test_dropout_and_sharing_exclude_each_other(config: Config, tmp_path: Path, wish: Any, where: str) -> None:
    """With dropout in the model or the adapter auto means no; asked for, it is an error that names the dropout."""
    if where == "model":
        values: dict[str, Any] = {
            "model": str(write_model_folder(tmp_path / "drops", dropout=0.2, dtype=torch.float64))
        }
    else:
        values = {"adapter.kind": "lora", "adapter.dropout": 0.2, "adapter.rank": 2}
    config = config.with_values({**values, "data.share_prefixes": wish})
    if wish is True:
        with pytest.raises(ConfigError, match=r"data\.share_prefixes: dropout is on \(.* = 0\.2\)"):
            open_session(config)
        return
    assert not open_session(config).shares


@pytest.mark.parametrize(
    "settings", [{"train.checkpointing": 1}, {"train.checkpointing": "full", "train.offload": True}]
)
def test_checkpointing_changes_only_memory(config: Config, settings: dict[str, Any]) -> None:
    """The chosen layers are set, told, and the run ends with the same weights."""
    session, _ = trained(config.with_values(settings))
    layers = decoder_layers(session.model)
    wanted = [True, False] if settings["train.checkpointing"] == 1 else [True, True]
    assert [layer.gradient_checkpointing for layer in layers] == wanted
    assert any("computed again in the backward pass" in note for note in session.take_notes())
    same(session, trained(config)[0])


RELEASE = {"train.gradient_release": True, "train.clip": 1e6}


def test_released_gradients_need_one_micro_batch(config: Config) -> None:
    """A step in several micro-batches is refused with the number that would do; nothing was trained."""
    session = open_session(config.with_values({**RELEASE, "data.share_prefixes": False, "train.micro_tokens": 128}))
    with pytest.raises(
        ConfigError, match=r"train\.gradient_release: .* this one is 4\.\nSet train\.micro_tokens to \d+"
    ):
        next(session.train())
    assert session.progress.step == 0


@pytest.mark.parametrize("share", [True, False])
def test_steps_in_pieces_are_refused_before_the_first(config: Config, share: bool) -> None:
    """With released gradients every step is looked at, as it will lie; what is named does, and auto is enough."""
    config = config.with_values({**RELEASE, "data.share_prefixes": share, "train.micro_tokens": 128})
    with pytest.raises(ConfigError, match=r"step \d would be \d\.\nSet train\.micro_tokens to auto") as caught:
        finetune(config)
    assert not Path(config.out).exists()
    (enough,) = re.findall(r"or to (\d+) or more", str(caught.value))
    for tokens in (int(enough), int(enough) - 1) if share else (int(enough),):
        changed = config.with_values({"train.micro_tokens": tokens, "out": f"{config.out}-{tokens}"})
        assert finetune(changed).result["steps"] == STEPS


def test_auto_holds_the_largest_step_where_gradients_are_released(config: Config) -> None:
    """However many tokens that are; elsewhere the default stays."""
    wish = {"train.micro_tokens": "auto", "data.share_prefixes": False, "train.batch_rows": 12}
    usual = gather(config.with_values(wish), lambda *_: None).config.train.micro_tokens
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MICRO_TOKENS, "cpu", 64)
        inputs = gather(config.with_values({**wish, **RELEASE}), lambda *_: None)
    assert usual == MICRO_TOKENS["cpu"]
    assert inputs.config.train.micro_tokens == inputs.prepared.train.lengths.sum()
    assert "in one piece" in inputs.resolved["train.micro_tokens"][1]


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        ({"train.rounding": "stochastic"}, r"rounding stochastic changes nothing here"),
        ({"train.micro_tokens": 64, "data.share_prefixes": True}, r"no beginnings are shared in step 1"),
        (
            {"adapter.kind": "lora", "adapter.dropout": 0.1},
            r"without dropout \(.* = 0\.1\) shared beginnings would save \d\d%",
        ),
    ],
)
def test_a_setting_without_effect_is_told(config: Config, settings: dict[str, Any], note: str) -> None:
    """Nothing that was wished for, or that auto would do, is left out in silence."""
    session, _ = trained(config, **{key.replace(".", "__"): value for key, value in settings.items()})
    assert any(re.search(note, text) for text in session.take_notes())
    assert not any(re.search(note, text) for text in trained(config)[0].take_notes())


def test_plain_kernels_are_plain_in_validation_too(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of held-out rows is asked for with the run's own kernels."""
    seen: list[LossOptions] = []

    def watched(model: Any, batch: Any, options: LossOptions) -> Any:
        seen.append(options)
        return token_losses(model, batch, options)

    monkeypatch.setattr("attune.evals.heldout.token_losses", watched)
    for kernels in ("plain", "auto"):
        open_session(config.with_values({"data.valid_share": 0.2, "train.kernels": kernels})).validate()
    assert [options.fused for options in seen] == [False, True]


def test_the_manifest_says_what_computed(config: Config) -> None:
    """Kernels, layers computed again and sharing are those of the run, and a resumed run notes what differs."""

    def stop(kind: str, payload: Any) -> None:
        if kind == "saved":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(config.with_values({"train.checkpointing": 1}), on_event=stop)
    run = RunFolder.open(config.out)
    manifest = run.read_json("manifest.json")
    (kernel,) = manifest["kernels"]
    assert kernel.startswith("1 of 2 layers are computed again")
    assert manifest["shares_prefixes"] is True
    run.write_json("manifest.json", {**manifest, "kernels": ["others"], "shares_prefixes": False})
    notes: list[str] = []
    resume(config.out, on_event=lambda kind, payload: notes.append(str(payload)) if kind == "note" else None)
    assert any(note.startswith("kernels was ['others'], is ['1 of 2 layers") for note in notes)
    assert any(note.startswith("shares_prefixes was False, is True") for note in notes)


def test_memory_that_ran_out_is_told_and_remembered(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends as one with room enough, its folder tells of it, and a resumed run begins with what fits."""
    config = config.with_values({"data.share_prefixes": False})
    run, attempts = limited_run(config, monkeypatch)
    assert run.result["steps"] == STEPS
    notes = [
        event["message"] for event in RunFolder.open(run.folder).read_lines("events.jsonl") if event["kind"] == "note"
    ]
    assert any("step 1: out of memory with" in note for note in notes)
    newest = find_newest(run.folder / "checkpoints")
    assert newest is not None
    assert newest.state["micro_tokens"] < 300
    session = open_session(config)
    session.restore(newest)
    assert session.room.micro_tokens == newest.state["micro_tokens"]
    assert max(attempts[2:]) <= 250
    plain = finetune(config.with_values({"out": config.out + "-plain"}))
    assert run.result["metrics"]["loss"] == pytest.approx(plain.result["metrics"]["loss"], rel=1e-9)


def limited_run(config: Config, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[int]]:
    """Run a config where at most 250 tokens fit at once; return the run and the sizes that were tried."""
    attempts: list[int] = []

    def limited(model: Any, batch: Any, *rest: Any, **named: Any) -> Any:
        attempts.append(len(batch.tokens))
        if attempts[-1] > 250:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return loss_sums(model, batch, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr("attune.train.loop.loss_sums", limited)
        return finetune(config), attempts


def test_a_run_that_shares_is_resumed_to_the_same_bits(config: Config, tmp_path: Path) -> None:
    """A step is a function of (seed, step), however its beginnings are shared."""
    straight = finetune(config)

    def stop(kind: str, payload: Any) -> None:
        if kind == "step" and payload.step == 2:
            raise KeyboardInterrupt

    other = config.with_values({"out": str(tmp_path / "other")})
    with pytest.raises(KeyboardInterrupt):
        finetune(other, on_event=stop)
    resumed = resume(other.out)
    ends = [(run.folder / "model" / "model.safetensors").read_bytes() for run in (straight, resumed)]
    assert ends[0] == ends[1]


def test_patience_counts_validations_without_a_better_metric(config: Config) -> None:
    """Of equal values the lower loss is the best step, but only a better value of the metric renews patience."""
    wishes = {"early_stop.metric": "val_exact_match", "early_stop.patience": 2}
    session = open_session(config.with_values(wishes))
    found = []
    for step, (loss, match) in enumerate([(3.0, 0.0), (2.0, 0.0), (1.0, 0.0), (0.5, 0.1), (0.6, 0.2), (0.4, 0.1)], 1):
        session.note_best(ValidRecord(step, loss, 0.5, 1.0, val_rows=9, val_tokens=9, val_exact_match=match), {})
        found.append((session.progress.best_step, session.progress.stale, session.act_on_patience()[0]))
    assert found == [(1, 0, False), (2, 1, False), (3, 2, True), (4, 0, False), (5, 0, False), (5, 1, False)]
