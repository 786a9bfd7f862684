"""What a run hands on works without attune: plain transformers and PEFT load it and give the same answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerState

from attune.config import Config
from attune.data.encoding.tokenizer import load_tokenizer
from attune.data.prepare import prepare
from attune.model.generate import generate
from attune.model.load import load_tuned
from attune.record import RunFolder
from attune.train.handoff import describe_extras, value_at, write_model, write_trainer_state
from attune.train.run import finetune
from attune.types import Alarm
from tests.tiny import write_model_folder, write_rows

PROMPT = [{"role": "user", "content": "3 stone river"}]


@pytest.fixture(scope="module", params=["full", "lora"])
def config(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Config:
    """The config of a finished run."""
    folder = tmp_path_factory.mktemp("run")
    config = Config(model=str(write_model_folder(folder / "base")), out=str(folder / "a"), device="cpu").with_values(
        {
            "data.train": str(write_rows(folder / "rows.jsonl", 24)),
            "train.steps": 12,
            "train.batch_rows": 4,
            "train.learning_rate": 0.02,
            "adapter.kind": request.param,
            "guards.enabled": False,
        }
    )
    finetune(config)
    return config


@pytest.fixture(scope="module")
def model_folder(config: Config) -> Path:
    """The tuned model's folder."""
    return Path(config.out) / "model"


def load_plainly(folder: Path) -> Any:
    """Return the model as somebody without attune loads it."""
    if (folder / "adapter_config.json").is_file():
        return AutoPeftModelForCausalLM.from_pretrained(folder).eval()
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def test_plain_loading_gives_the_same_answer(model_folder: Path) -> None:
    """Greedy token ids of transformers' own generation are those of ours, on the prompt as the template writes it."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    prompt = tokenizer.apply_chat_template(PROMPT, add_generation_prompt=True, return_dict=False)
    stops = json.loads((model_folder / "generation_config.json").read_text())["eos_token_id"]
    plain = load_plainly(model_folder).generate(
        input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=24, do_sample=False
    )
    theirs = [token for token in plain[0, len(prompt) :].tolist() if token not in stops]
    (ours,) = generate(load_tuned(model_folder), [prompt], stop_ids=stops, max_new_tokens=24)
    assert list(ours.tokens) == theirs
    assert len(theirs) > 0


def test_the_answer_is_not_the_base_models(config: Config, model_folder: Path) -> None:
    """The test above would pass for an untrained model too; training changed the logits."""
    tokens = torch.tensor([load_tokenizer(Path(config.model)).encode("3 stone river")])
    base = AutoModelForCausalLM.from_pretrained(config.model).eval()
    with torch.no_grad():
        difference = (load_plainly(model_folder)(tokens).logits - base(tokens).logits).abs().max()
    assert difference > 0.1


def test_every_stop_token_is_handed_on(config: Config, model_folder: Path) -> None:
    """generation_config.json ends an answer where training ended it, and where the tokenizer does."""
    tokenizer = load_tokenizer(Path(config.model))
    prepared = prepare(config, tokenizer, model_length=256)
    stops = json.loads((model_folder / "generation_config.json").read_text())["eos_token_id"]
    assert set(stops) == {*tokenizer.stop_ids, *prepared.template.stop_ids}
    tokens, learned = prepared.train.row(0)
    assert tokens[learned][-1] in stops, "the last learned token of a row ends an answer"
    assert load_tokenizer(model_folder).stop_ids == tuple(stops)


def test_the_template_renders_what_was_trained_on(config: Config, model_folder: Path) -> None:
    """For every row, transformers' rendering of chat_template.jinja gives the token ids of the corpus."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    prepared = prepare(
        config.with_values({"data.valid_share": 0.0}), load_tokenizer(Path(config.model)), model_length=256
    )
    rows = [json.loads(line) for line in Path(str(config.data.train)).read_text().splitlines()]
    for number, row in enumerate(rows):
        turns = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
        ids = tokenizer.apply_chat_template(turns, return_dict=False)
        assert ids == prepared.train.row(number)[0].tolist()


def test_the_folder_is_whole_and_readable(config: Config, model_folder: Path) -> None:
    """Weights, tokenizer, template, stop tokens and a card; every file is readable by everybody, none names a path."""
    is_lora = config.adapter.kind == "lora"
    names = {file.name for file in model_folder.iterdir()}
    weights = "adapter_model.safetensors" if is_lora else "model.safetensors"
    assert {weights, "tokenizer.json", "chat_template.jinja", "generation_config.json", "README.md"} <= names
    assert {file.stat().st_mode & 0o777 for file in model_folder.iterdir()} == {0o644}
    card = (model_folder / "README.md").read_text()
    assert f"library_name: {'peft' if is_lora else 'transformers'}" in card
    assert str(Path(config.model).parent) not in card


def test_the_card_names_the_best_metric_and_the_base(config: Config, model_folder: Path) -> None:
    """The metric that chose the weights is named with its value at that step, as it was recorded."""
    run = RunFolder.open(config.out)
    best = run.read_json("result.json")["best_step"]
    value = value_at(run.read_lines("metrics.jsonl"), "val_loss", step=best)
    card = (model_folder / "README.md").read_text()
    assert value is not None
    assert f"the weights of step {best}, the best by val_loss." in card
    assert f"| val_loss | {value:.4g} |" in card
    assert card.endswith("## Alarms\n\nNone.\n")


def test_the_card_tells_of_alarms_and_extras(config: Config, tmp_path: Path) -> None:
    """Alarms stand there with the gravest first and without their rows; replay and noise are named."""
    run = RunFolder.create(tmp_path / "b")
    mild = Alarm("G4", "forgetting", 1200, "warning", 0.5, 0.2, "General loss rose\nby 0.5.", "", ("secret.jsonl:3",))
    grave = Alarm("G1", "overfit", 40, "error", 3.1, 2.0, "Validation loss rises.", "--early_stop.patience 3")
    extras = {"replay.source": "self", "train.neftune_alpha": 5.0, "early_stop.metric": "field_accuracy"}
    run.append("metrics.jsonl", {"step": 3, "probe_loss": 1.0, "scores": {"field_accuracy": 0.625}})
    tokenizer = load_tokenizer(Path(config.model))
    write_model(
        run,
        load_tuned(Path(config.out) / "model"),
        config=config.with_values({**extras, "train.learning_rate": 0.02}),
        prepared=prepare(config, tokenizer, model_length=256),
        tokenizer=tokenizer,
        result={"steps": 9, "best_step": 3, "metrics": {"loss": 0.5}, "alarms": [mild, grave]},
    )
    card = (tmp_path / "b" / "model" / "README.md").read_text()
    assert "the weights of step 3, the best by field_accuracy.\n" in card
    assert "| field_accuracy | 0.625 |\n| loss | 0.5 |" in card
    assert "Replay of texts of the base model itself: 0.5 of a step's tokens, loss with weight 0, divergence" in card
    assert "NEFTune noise, alpha 5." in card
    lines = card.split("## Alarms\n\n")[1].splitlines()
    assert lines[0] == "- error, step 40, G1 overfit: Validation loss rises."
    assert lines[1] == "- warning, step 1,200, G4 forgetting: General loss rose by 0.5."
    assert "secret" not in card


def test_plain_fine_tuning_has_no_extras() -> None:
    """Only what was asked for is named; forms of LoRA stand with its rank."""
    assert describe_extras(Config()) == []
    config = Config().with_values({"adapter.kind": "lora", "adapter.rank": 4, "adapter.dora": True, "data.augment": 2})
    assert describe_extras(config) == [
        "LoRA of rank 4, alpha 32, with DoRA",
        "Up to 2 reworded variants of each row",
    ]


def test_transformers_reads_the_trainer_state(config: Config) -> None:
    """The class of transformers loads the file; its history has what people plot, under the names they look for."""
    run = RunFolder.open(config.out)
    state = TrainerState.load_from_json(str(run.path / "trainer_state.json"))
    result = run.read_json("result.json")
    assert (state.global_step, state.max_steps, state.best_global_step) == (12, 12, result["best_step"])
    assert state.best_metric == result["metrics"]["val_loss"]
    assert (run.path / str(state.best_model_checkpoint)).is_dir()
    steps = [line for line in state.log_history if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 13))
    assert all({"epoch", "loss", "grad_norm", "learning_rate"} <= set(line) for line in steps)
    evals = [line for line in state.log_history if "eval_loss" in line]
    assert evals[0]["step"] == evals[0]["epoch"] == 0
    assert evals[-1]["epoch"] == steps[-1]["epoch"] == state.epoch
    assert state.num_input_tokens_seen == sum(line["tokens"] for line in steps)


def test_trainer_state_in_mid_run(tmp_path: Path) -> None:
    """It can be written before the first step too; scores are evaluations, texts are left out, NaN becomes null."""
    run = RunFolder.create(tmp_path / "a")
    config = Config().with_values({"early_stop.metric": "exact_match"})
    begun = {"steps": 0, "total_steps": 5, "best_step": 0, "metrics": {"train_flos": None}}
    write_trainer_state(run, result=begun, config=config)
    assert TrainerState.load_from_json(str(run.path / "trainer_state.json")).log_history == []
    run.append(
        "metrics.jsonl",
        {"step": 1, "loss": float("nan"), "epoch": 0.5, "tokens": 9, "mfu": None, "time": 1.0},
        {"step": 1, "probe_loss": 2.0, "opener": "Sure! Here", "scores": {"exact_match": 0.25}, "time": 1.5},
    )
    at_one = {"steps": 1, "total_steps": 5, "best_step": 1, "metrics": {"train_flos": 3.0}}
    write_trainer_state(run, result=at_one, config=config)
    state = TrainerState.load_from_json(str(run.path / "trainer_state.json"))
    assert state.best_metric == 0.25
    assert state.log_history == [
        {"step": 1, "loss": None, "epoch": 0.5, "tokens": 9},
        {"step": 1, "probe_loss": 2.0, "eval_exact_match": 0.25, "epoch": 0.5},
    ]
