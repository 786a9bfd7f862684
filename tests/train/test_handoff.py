"""What a run hands on works without attune: plain transformers and PEFT load it and give the same answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from attune.config import Config
from attune.data.encoding.tokenizer import load_tokenizer
from attune.data.prepare import prepare
from attune.model.generate import generate
from attune.model.load import load_tuned
from attune.train.run import finetune
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
