"""TRL's side of cpu_vs_trl.py: one measurement, described by a JSON file, run by the Python that has TRL.

Imports nothing of attune. Prints one JSON object on the last line of stdout.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars, load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, TrainerCallback
from trl import SFTConfig, SFTTrainer

NOT_LEARNED = -100


class StepClock(TrainerCallback):  # type: ignore[misc]  # TRL and transformers are not in the type checker's environment
    """The time at which each optimizer step was done, and the processor time used until then."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.used: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the time."""
        self.ends.append(time.perf_counter())
        self.used.append(time.process_time())


def arguments(folder: str, **settings: Any) -> SFTConfig:
    """TRL's settings without what costs time: no checkpoints, no logging, no recomputing of activations."""
    return SFTConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        optim="adamw_torch_fused",
        completion_only_loss=True,
        report_to="none",
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        **settings,
    )


def rows_of(file: str) -> Dataset:
    """The rows of a JSONL file, read by TRL's own library, without what an earlier run may have cached."""
    cache = tempfile.mkdtemp(prefix="datasets-")
    return load_dataset("json", data_files=file, split="train", cache_dir=cache).select_columns(
        ["prompt", "completion"]
    )


def measure_training(job: dict[str, Any], folder: str) -> dict[str, Any]:
    """Tokens and seconds of the steps after the warm-up ones."""
    packed = job["setting"] == "packed"
    settings = arguments(
        folder,
        per_device_train_batch_size=1 if packed else job["batch_rows"],
        packing=packed,
        max_length=job["pack_length"] if packed else job["max_length"],
        max_steps=job["steps"],
        train_sampling_strategy="group_by_length" if job["setting"] == "grouped" else "random",
        learning_rate=job["learning_rate"],
        seed=job["seed"],
    )
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    clock = StepClock()
    trainer = SFTTrainer(
        model, args=settings, train_dataset=rows_of(job["rows"]), processing_class=tokenizer, callbacks=[clock]
    )
    prepared = trainer.train_dataset
    all_learned = sum(sum(label != NOT_LEARNED for label in labels[1:]) for labels in prepared["labels"])
    batches: list[tuple[int, int, int]] = []
    collate = trainer.data_collator

    def count_and_collate(rows: list[dict[str, Any]]) -> Any:
        real = sum(len(row["input_ids"]) for row in rows)
        learned = sum(sum(label != NOT_LEARNED for label in row["labels"]) for row in rows)
        batch = collate(rows)
        batches.append((real, learned, batch["input_ids"].numel()))
        return batch

    trainer.data_collator = count_and_collate
    trainer.train()
    # A step may take several batches, and the loader reads one ahead: the first steps x (batches per step) were used.
    per_step = settings.gradient_accumulation_steps
    used = batches[job["warmup"] * per_step : job["steps"] * per_step]
    seconds = clock.ends[-1] - clock.ends[job["warmup"] - 1]
    return {
        "seconds": seconds,
        "cpu_seconds": clock.used[-1] - clock.used[job["warmup"] - 1],
        "steps": job["steps"] - job["warmup"],
        "tokens": sum(real for real, _, _ in used),
        "learned_tokens": sum(learned for _, learned, _ in used),
        "computed_positions": sum(computed for _, _, computed in used),
        "rows": len(prepared),
        "learned_tokens_of_all_rows": all_learned,
    }


def measure_preparation(job: dict[str, Any], folder: str) -> dict[str, Any]:
    """Seconds from the file to rows that are ready to train on; SFTTrainer wants a model, so it gets a small one."""
    seconds: list[float] = []

    class Timed(SFTTrainer):  # type: ignore[misc]  # see StepClock
        def _prepare_dataset(self, *args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            ready = super()._prepare_dataset(*args, **kwargs)
            seconds.append(time.perf_counter() - begin)
            return ready

    tokenizer = AutoTokenizer.from_pretrained(job["tokenizer"])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=1))
    settings = arguments(folder, dataset_num_proc=job["processes"], max_length=job["max_length"], max_steps=1)
    begin = time.perf_counter()
    rows = rows_of(job["rows"])
    reading = time.perf_counter() - begin
    trainer = Timed(model, args=settings, train_dataset=rows, processing_class=tokenizer)
    prepared = trainer.train_dataset
    return {
        "seconds": reading + sum(seconds),
        "reading_seconds": reading,
        "rows_in": len(rows),
        "rows": len(prepared),
        "tokens": sum(len(ids) for ids in prepared["input_ids"]),
        "learned_tokens": sum(sum(label != NOT_LEARNED for label in labels) for labels in prepared["labels"]),
    }


def main() -> None:
    """Run the measurement that the JSON file named on the command line describes."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        measure = measure_training if job["kind"] == "train" else measure_preparation
        result = measure(job, folder)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
