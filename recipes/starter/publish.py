"""Publishes a pretrained run: its weights in bfloat16 for the package, then the model card from what was measured.

python recipes/starter/publish.py weights --run work/starter/run --out src/attune/bundled/starter
python recipes/starter/publish.py card --run work/starter/run --measured work/starter/measured.json \
    --out src/attune/bundled/starter
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from safetensors.torch import load_file, save_file

MOST_BYTES = 24_000_000  # what the package may carry
COPIED = ("tokenizer.json", "tokenizer_config.json")
LAST_STEPS = 100  # the final training loss is their mean: one step's is noisy


def publish_weights(run: Path, out: Path) -> int:
    """Write the run's weights as bfloat16 with config, generation config and tokenizer; return the weights' bytes.

    A base model has no chat format, so the default template that attune saves with every run stays behind.
    """
    source = run / "model"
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: weight.to(torch.bfloat16) for name, weight in load_file(source / "model.safetensors").items()}
    target = out / "model.safetensors"
    save_file(weights, target, metadata={"format": "pt"})
    target.chmod(0o644)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = "bfloat16"
    write_json(out / "config.json", config)
    write_json(
        out / "generation_config.json", {"eos_token_id": config["eos_token_id"], "pad_token_id": config["pad_token_id"]}
    )
    for name in COPIED:
        if (source / name).resolve() != (out / name).resolve():
            shutil.copyfile(source / name, out / name)
    size = target.stat().st_size
    if size > MOST_BYTES:
        raise SystemExit(f"{target}: {size:,} bytes, more than the {MOST_BYTES:,} that the package may carry")
    return size


def write_json(file: Path, value: Any) -> None:
    """Write a JSON document as the other files of a model folder are written."""
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def run_facts(run: Path) -> dict[str, Any]:
    """Return what the run folder says of the training: size, tokens seen, time, speed, losses."""
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    with (run / "metrics.jsonl").open(encoding="utf-8") as lines:
        steps = [record for record in map(json.loads, lines) if "loss" in record]
    return {
        "parameters": manifest["model"]["parameters"],
        "hardware": manifest["hardware"],
        "precision": manifest["precision"],
        "attention": manifest["attention"],
        "steps": result["steps"],
        "epochs": result["epochs"],
        "minutes": result["seconds"] / 60,
        "tokens": sum(step["tokens"] for step in steps),
        "tokens_per_s": median(step["tokens_per_s"] for step in steps),
        "loss": mean(step["loss"] for step in steps[-LAST_STEPS:]),
        "val_loss": result["metrics"]["val_loss"],
        "flos": result["metrics"]["train_flos"],
    }


def card(facts: dict[str, Any], measured: dict[str, Any], config: dict[str, Any]) -> str:
    """Return the model card: what the model is, how it was made, what was measured and what it is not for."""
    blimp, twin = measured["blimp"], measured["blimp_random_twin"]
    held = [(name, figures) for name, figures in measured.items() if name.startswith("heldout_")]
    rows = [
        ("tokens seen", f"{facts['tokens'] / 1e6:,.0f} M in {facts['steps']:,} steps, {facts['epochs']:.1f} passes"),
        ("training loss, mean of the last 100 steps", f"{facts['loss']:.3f} nats per token"),
        ("validation loss, 222 unseen articles", f"{facts['val_loss']:.3f} nats per token"),
        ('WikiText-2 test, raw, without "Nero"', f"{measured['wikitext2']['bits_per_byte']:.3f} bits per byte"),
        *(
            (f"held-out rows, {name.removeprefix('heldout_')}", f"{figures['bits_per_byte']:.3f} bits per byte")
            for name, figures in held
        ),
        ("BLiMP, 67 paradigms", f"{blimp['accuracy']:.3f} ({blimp['pairs']:,} pairs)"),
        ("BLiMP, random weights of the same shape", f"{twin['accuracy']:.3f}"),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    said = "\n\n".join(f"> **{sample['prompt']}** {quoted(sample['drawn'])}" for sample in measured["samples"])
    return CARD.format(**facts, **config, table=table, samples=said, millions=facts["parameters"] / 1e6)


def quoted(text: str) -> str:
    """Return a sample for a quotation in Markdown: one paragraph, as the model wrote it otherwise."""
    return " / ".join(text.split("\n")).replace("*", r"\*").replace("<", "&lt;").strip()


CARD = """---
license: cc-by-sa-3.0
language: en
library_name: transformers
pipeline_tag: text-generation
tags:
- attune
- base-model
---
# attune starter: a small English base model

A Llama of {millions:.1f} M parameters ({num_hidden_layers} layers of width {hidden_size}, {num_attention_heads} heads,
tied embeddings, context {max_position_embeddings} tokens) with its own byte-level BPE of {vocab_size:,} tokens, in
which every digit stands alone. It is what `attune quickstart` tunes: small enough for two CPU cores, and able to learn
a format and to copy names and numbers.

It is a base model: it continues text, has no chat format, follows no instructions, and what it says is fluent at best,
never reliable.

## How it was made

Pretrained from random weights with `attune train recipes/starter/pretrain.yaml` on English Wikipedia (2015, core
articles) and 19th-century novels, cleaned by `recipes/starter/prepare.py`; every command stands in
`recipes/starter/README.md`. {hardware}, precision {precision}, attention {attention}, {minutes:.1f} minutes,
{tokens_per_s:,.0f} tokens per second, {flos:.2g} floating point operations. The published weights are the trained
float32 ones rounded to bfloat16, and the figures below are those of the rounded weights.

## What was measured

| | |
|---|---|
{table}

Bits per byte count every byte: windows of the whole context move on by three quarters of it, each token is scored once,
and a document's first token is charged log2 of the vocabulary. WikiText-2 is taken as it is, without detokenising; nine
articles that stand in it or share passages with it were left out of the training. BLiMP compares the summed log
probability of the good and the bad sentence after a line break; the figure is the mean over paradigms, chance is 0.5.

## What it writes

Drawn at temperature 0.8, top-p 0.95, not selected:

{samples}

## Licence

The training text is CC BY-SA 3.0 (Wikipedia) and in the public domain (novels); the weights are offered under CC BY-SA
3.0 as well.
"""


def main() -> None:
    """Read the command line and do its verb."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("weights", "card"):
        command = verbs.add_parser(verb)
        command.add_argument("--run", type=Path, required=True, help="run folder of the pretraining")
        command.add_argument("--out", type=Path, required=True, help="folder of the published model")
        if verb == "card":
            command.add_argument("--measured", type=Path, required=True, help="JSON document of measure.py")
    a = parser.parse_args()
    if a.verb == "weights":
        print(f"{a.out}: {publish_weights(a.run, a.out):,} bytes of weights")
        return
    measured = json.loads(a.measured.read_text(encoding="utf-8"))
    config = json.loads((a.out / "config.json").read_text(encoding="utf-8"))
    (a.out / "README.md").write_text(card(run_facts(a.run), measured, config), encoding="utf-8")


if __name__ == "__main__":
    main()
