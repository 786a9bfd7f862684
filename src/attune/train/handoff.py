"""Handing a tuned model on: a folder that transformers or PEFT loads as it is, with template, stop tokens and card."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from attune.config import Config
from attune.data.encoding.tokenizer import Tokenizer
from attune.data.prepare import Prepared
from attune.model.adapter import save_model
from attune.record import RunFolder, json_text, plain, write_atomic
from attune.train.data_files import data_name
from attune.train.defaults import replay_weights

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)

MAX_ALARMS = 20  # on the card
_ON_CARD = ("val_loss", "val_perplexity", "val_accuracy", "val_exact_match")
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
    write_atomic(folder / "README.md", _card(run, config, prepared, result).encode())


def _card(run: RunFolder, config: Config, prepared: Prepared, result: Mapping[str, Any]) -> str:
    """Return the model card: what was tuned on what, how, what was measured and what guards said; names, no paths."""
    base = Path(config.model).name if Path(config.model).is_dir() else config.model
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
        f"{prepared.train.num_learned:,} learned tokens a pass, {result['steps']:,} steps."
    )
    settings = (
        f"Chat template: {prepared.template.name} (in chat_template.jinja). "
        f"Learning rate {config.train.learning_rate:g}, {config.train.schedule}, seed {config.seed}."
    )
    values = _measured(run.read_lines("metrics.jsonl"), _metric(config), result)
    rows = [f"| {name} | {value:.4g} |" for name, value in values.items()]
    chosen = f"These are the weights of step {result['best_step']:,}"
    chosen += f", the best by {_metric(config)}." if _metric(config) in values else "."
    title = f"# {base}, tuned on {data_name(config)}"
    body = [title, "", method, "", chosen, "", "| measured | value |", "|---|---|", *rows, "", settings]
    body += [f"{extra}." for extra in describe_extras(config)]
    return "\n".join([*head, *body, "", "## Alarms", "", *_alarm_lines(result["alarms"]), ""])


def _metric(config: Config) -> str:
    """Return the metric that chose the best step."""
    return "val_loss" if config.early_stop.metric == "auto" else config.early_stop.metric


def _measured(records: Sequence[Mapping[str, Any]], metric: str, result: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of the card that there are: the metric that chose the step first."""
    best = {name: value_at(records, name, step=result["best_step"]) for name in dict.fromkeys((metric, *_ON_CARD))}
    found = {**best, "loss": result["metrics"]["loss"]}
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


def describe_extras(config: Config) -> list[str]:
    """Return in words what was done beside plain fine-tuning: forms of LoRA, noise, augmentation, replay."""
    adapter, replay = config.adapter, config.replay
    forms = [name for name, on in (("rank-stabilised", adapter.rslora), ("with DoRA", adapter.dora)) if on]
    said = []
    if adapter.kind != "full":
        said.append(f"LoRA of rank {adapter.rank}, alpha {adapter.alpha:g}{''.join(f', {form}' for form in forms)}")
    if config.train.neftune_alpha:
        said.append(f"NEFTune noise, alpha {config.train.neftune_alpha:g}")
    if config.data.augment:
        said.append(f"Up to {config.data.augment} reworded variants of each row")
    if replay.source:
        source = "texts of the base model itself" if replay.source == "self" else "a file of general text"
        weight, kl = replay_weights(replay)
        said.append(
            f"Replay of {source}: {replay.share:g} of a step's tokens, loss with weight {weight:g}, divergence from "
            f"the base model with weight {kl:g}"
        )
    return said


def _alarm_lines(alarms: Sequence[Any]) -> list[str]:
    """Return a line for each alarm, the gravest first; rows and their places are left out."""
    order = ("error", "warning", "info")
    found = sorted((plain(alarm) for alarm in alarms), key=lambda alarm: order.index(alarm["severity"]))
    lines = [
        f"- {alarm['severity']}, step {alarm['step']:,}, {alarm['id']} {alarm['name']}: "
        + " ".join(alarm["message"].split())
        for alarm in found[:MAX_ALARMS]
    ]
    more = len(found) - len(lines)
    return [*lines, *([f"- {more:,} more"] if more else [])] or ["None."]


def value_at(records: Sequence[Mapping[str, Any]], metric: str, *, step: int) -> float | None:
    """Return what was recorded of a metric (as early_stop.metric names them) at a step; None where it was not."""
    for record in reversed(records):
        found = record.get(metric, record.get("scores", {}).get(metric))
        if record["step"] == step and isinstance(found, int | float):
            return float(found)
    return None


def write_trainer_state(run: RunFolder, *, result: Mapping[str, Any], config: Config) -> None:
    """Write trainer_state.json as transformers' Trainer lays it out, for tools that plot its log_history.

    `result` is how far the run is, now or at its end; validation metrics are called eval_... as there.
    """
    records = run.read_lines("metrics.jsonl")
    epoch, tokens, history = 0.0, 0, []
    for record in records:
        epoch, tokens = record.get("epoch", epoch), tokens + record.get("tokens", 0)
        history.append(_log_line(record) | {"epoch": epoch})
    best = result["best_step"]
    state = {
        "global_step": result["steps"],
        "max_steps": result["total_steps"],
        "epoch": epoch,
        "num_train_epochs": math.ceil(config.train.epochs),
        "num_input_tokens_seen": tokens,
        "logging_steps": 1,
        "eval_steps": config.valid.every,
        "save_steps": config.checkpoint.every,
        "train_batch_size": config.train.batch_rows,
        "best_metric": value_at(records, _metric(config), step=best),
        "best_global_step": best or None,
        "best_model_checkpoint": f"checkpoints/step-{best}" if best else None,
        "total_flos": result["metrics"]["train_flos"] or 0.0,
        "log_history": history,
    }
    run.write_json("trainer_state.json", state)


def _log_line(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as an entry of log_history: numbers alone, scores beside the rest, what is not finite as null."""
    values = {name: value for name, value in record.items() if name not in ("time", "scores", "opener")}
    values |= {f"val_{name}": value for name, value in record.get("scores", {}).items()}
    named = {"eval_" + name[4:] if name.startswith("val_") else name: value for name, value in values.items()}
    return {name: None if isinstance(v, str) else v for name, v in named.items() if v is not None}
