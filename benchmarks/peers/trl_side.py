"""TRL's side of gpu.py at its best: packed, FlashAttention-4, Liger's kernels, fused AdamW, nothing computed twice.

Run by gpu.py with the Python path that has TRL; imports nothing of attune.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import warnings
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, LlamaConfig
from trl import SFTConfig, SFTTrainer

from benchmarks.gpu_cases import LORA
from benchmarks.peers.peer import Count, Work, run, stop_clock, word_tokenizer


def attention_of(work: Work) -> str:
    """Return the fastest attention that this installation has for packed rows."""
    if not work.cuda:
        return "sdpa"
    if importlib.util.find_spec("flash_attn") and importlib.util.find_spec("flash_attn.cute"):
        return "flash_attention_4"
    raise SystemExit("no FlashAttention: TRL's packed rows would see each other")


def build_model(work: Work, attention: str) -> Any:
    """Return a random model on the device."""
    torch.manual_seed(work.job["seed"])
    dtype = torch.bfloat16 if work.cuda else torch.float32
    with torch.device(work.job["device"]):
        return AutoModelForCausalLM.from_config(LlamaConfig(**work.shape), dtype=dtype, attn_implementation=attention)


def lora_of(work: Work) -> Any:
    """Return PEFT's settings, or None for all weights."""
    if work.case.adapter == "full":
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=LORA["rank"], lora_alpha=LORA["alpha"], lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def measure(work: Work) -> dict[str, Any]:
    """Train the case's rows with TRL and return what was seen."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    attention = attention_of(work)
    model = build_model(work, attention)
    watch = work.watch()
    rows = work.rows.lists
    table = Dataset.from_dict(
        {"input_ids": [tokens for tokens, _ in rows], "completion_mask": [learned for _, learned in rows]}
    )
    liger = work.way["liger"] and work.cuda and importlib.util.find_spec("liger_kernel") is not None
    settings = SFTConfig(
        **work.settings(watch),
        packing_strategy="bfd",
        completion_only_loss=True,
        use_liger_kernel=liger,
        gradient_checkpointing=work.way["checkpointing"],
    )
    trainer = SFTTrainer(
        model,
        args=settings,
        train_dataset=table,
        processing_class=word_tokenizer(work.shape["vocab_size"]),
        peft_config=lora_of(work),
        callbacks=[stop_clock(watch)],
    )
    count = Count(watch, settings.gradient_accumulation_steps)
    trainer.training_step = count.around(trainer.training_step)
    trainer.train()
    liger_words = f"Liger {importlib.metadata.version('liger_kernel')}" if liger else "without Liger"
    return count.result(work.job["steps"]) | {
        "how": [f"TRL {importlib.metadata.version('trl')}", attention, liger_words]
    }


if __name__ == "__main__":
    run(measure)
