"""Handing a tuned model on: a folder that transformers or PEFT loads as it is, with template, stop tokens and card."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from attune.config import Config
from attune.data.encoding.tokenizer import Tokenizer
from attune.data.prepare import Prepared
from attune.model.adapter import save_model
from attune.record import RunFolder, json_text, write_atomic
from attune.train.data_files import data_name

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)

_METHODS = {"full": "Full", "lora": "LoRA", "qlora": "QLoRA"}


def write_model(
    run: RunFolder,
    model: nn.Module,
    *,
    config: Config,
    prepared: Prepared,
    tokenizer: Tokenizer,
    result: Mapping[str, Any],
) -> None:
    """Write run/model: weights or adapter, tokenizer, the chat template trained with, every stop token, and a card."""
    folder = run.path / "model"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    save_model(model, folder)
    for name in TOKENIZER_FILES:
        if (tokenizer.folder / name).is_file():
            shutil.copyfile(tokenizer.folder / name, folder / name)
    write_atomic(folder / "chat_template.jinja", prepared.template.source.encode())
    stops = sorted({*prepared.template.stop_ids, *tokenizer.stop_ids})
    generation = {"bos_token_id": tokenizer.bos_id, "eos_token_id": stops}
    write_atomic(folder / "generation_config.json", json_text(generation).encode())
    write_atomic(folder / "README.md", _card(config, prepared, result).encode())


def _card(config: Config, prepared: Prepared, result: Mapping[str, Any]) -> str:
    """Return the model card: what was tuned on what, how, and what was measured; names only, no paths."""
    base = Path(config.model).name if Path(config.model).is_dir() else config.model
    metrics = result["metrics"]
    rows = [
        (name, metrics[name])
        for name in ("val_loss", "val_perplexity", "val_accuracy", "loss")
        if metrics.get(name) is not None
    ]
    table = "\n".join(f"| {name} | {value:.4g} |" for name, value in rows)
    lora = config.adapter.kind != "full"
    head = ["---", f"base_model: {base}", f"base_model_relation: {'adapter' if lora else 'finetune'}"]
    head += [
        f"library_name: {'peft' if lora else 'transformers'}",
        "pipeline_tag: text-generation",
        "tags:",
        "- sft",
        "- attune",
        "---",
    ]
    method = (
        f"{_METHODS[config.adapter.kind]} supervised fine-tuning: {prepared.train.num_rows:,} rows, "
        f"{prepared.train.num_learned:,} learned tokens a pass, {result['steps']:,} steps, "
        f"best step {result['best_step']:,}."
    )
    settings = (
        f"Chat template: {prepared.template.name} (in chat_template.jinja). "
        f"Learning rate {config.train.learning_rate:g}, {config.train.schedule}, seed {config.seed}."
    )
    title = f"# {base}, tuned on {data_name(config)}"
    return "\n".join([*head, title, "", method, "", "| measured | value |", "|---|---|", table, "", settings, ""])


def write_trainer_state(run: RunFolder, *, result: Mapping[str, Any]) -> None:
    """Write trainer_state.json as transformers' Trainer lays it out, for tools that plot its log_history."""
    history = []
    for record in run.read_lines("metrics.jsonl"):
        line = {name.replace("val_", "eval_", 1): value for name, value in record.items() if name != "time"}
        history.append(line)
    best = result["best_step"]
    state = {
        "global_step": result["steps"],
        "max_steps": result["total_steps"],
        "epoch": result["metrics"]["epoch"],
        "best_metric": result["metrics"].get("val_loss"),
        "best_model_checkpoint": f"checkpoints/step-{best}" if best else None,
        "total_flos": result["metrics"]["train_flos"],
        "log_history": history,
    }
    run.write_json("trainer_state.json", state)
