"""Unsloth's side of gpu.py: LoRA on packed rows, with and without its checkpointing.

Run by gpu.py with the Python path that has Unsloth; imports nothing of attune. Unsloth loads models from folders only,
so a random one is written first and kept for the next measurement.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_cases import LORA
from benchmarks.peers.peer import Count, Work, run, stop_clock, word_tokenizer

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def write_model(work: Work) -> Path:
    """Return the folder of a random model of the case's shape; written where it is not there yet."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    name = f"random-{'tiny' if work.job['tiny'] else work.case.model}-{work.job['seed']}"
    folder = Path(tempfile.gettempdir()) / name
    if not folder.exists():
        torch.manual_seed(work.job["seed"])
        unfinished = folder.with_name(f"{name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        with torch.device(work.job["device"]):
            model = AutoModelForCausalLM.from_config(LlamaConfig(**work.shape), dtype=torch.bfloat16)
        model.save_pretrained(unfinished)
        word_tokenizer(work.shape["vocab_size"]).save_pretrained(unfinished)
        unfinished.rename(folder)
        del model
        torch.cuda.empty_cache()
    return folder


def build_model(unsloth: Any, work: Work, folder: Path) -> tuple[Any, Any]:
    """Return Unsloth's model with its adapter, and the tokenizer."""
    longest = work.sizes.longest
    four_bits = bool(work.way.get("four_bits", False))
    model, tokenizer = unsloth.FastLanguageModel.from_pretrained(
        str(folder), max_seq_length=longest, dtype=torch.bfloat16, load_in_4bit=four_bits, local_files_only=True
    )
    model = unsloth.FastLanguageModel.get_peft_model(
        model,
        r=LORA["rank"],
        lora_alpha=LORA["alpha"],
        lora_dropout=0,
        target_modules=TARGETS,
        use_gradient_checkpointing=work.way["checkpointing"],
        random_state=work.job["seed"],
    )
    return model, tokenizer


def measure(work: Work) -> dict[str, Any]:
    """Train the case's rows with Unsloth and return what was seen."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "UNSLOTH_DISABLE_STATISTICS": "1"}
    unsloth: Any = importlib.import_module("unsloth")  # before trl: it replaces parts of it
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = build_model(unsloth, work, write_model(work))
    watch = work.watch()
    rows = work.rows.lists
    labels = [[t if m else -100 for t, m in zip(tokens, learned, strict=True)] for tokens, learned in rows]
    table = Dataset.from_dict({"input_ids": [tokens for tokens, _ in rows], "labels": labels})
    settings = SFTConfig(**work.settings(watch))
    trainer = SFTTrainer(
        model=model, args=settings, train_dataset=table, processing_class=tokenizer, callbacks=[stop_clock(watch)]
    )
    count = Count(watch, settings.gradient_accumulation_steps)
    trainer.training_step = count.around(trainer.training_step)
    trainer.train()
    return count.result(work.job["steps"]) | {
        "how": [f"Unsloth {importlib.metadata.version('unsloth')}", f"checkpointing {work.way['checkpointing']}"]
    }


if __name__ == "__main__":
    run(measure)
