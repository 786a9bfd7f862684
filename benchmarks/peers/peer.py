"""What the sides of the peers share: their model, their tokenizer, how rows are handed over, how steps are counted.

Imports nothing of attune.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_cases import CASES, TINY, Case, Rows, Sizes, make_rows, model_shape
from benchmarks.gpu_watch import Watch


@dataclass(frozen=True, slots=True)
class Work:
    """One case as a peer runs it: its rows, its settings (`way`), and a folder for what it writes."""

    case: Case
    sizes: Sizes
    rows: Rows
    way: dict[str, Any]
    job: dict[str, Any]
    folder: str

    @property
    def cuda(self) -> bool:
        """Whether it runs on a GPU."""
        return bool(self.job["device"] == "cuda")

    @property
    def shape(self) -> dict[str, Any]:
        """The arguments of LlamaConfig."""
        return dict(model_shape(self.case, tiny=self.job["tiny"]))

    def watch(self) -> Watch:
        """Return a watch that starts now."""
        return Watch(torch.device(self.job["device"]), steps=self.job["steps"], profiled=self.job["profiled"])

    def settings(self, watch: Watch) -> dict[str, Any]:
        """Return the arguments of SFTConfig that all peers share: nothing that costs time beside training."""
        longest = self.sizes.longest if self.case.rows != "even" else self.sizes.even
        return {
            "output_dir": self.folder,
            "max_steps": watch.wanted,
            "packing": True,
            "max_length": longest,
            "per_device_train_batch_size": max(1, self.sizes.step_tokens // longest),
            "gradient_accumulation_steps": self.way.get("accumulate", 1),
            "learning_rate": 1e-5 if self.case.adapter == "full" else 1e-4,
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
            "max_grad_norm": 1.0,
            "optim": "adamw_torch_fused",
            "bf16": self.cuda,
            "use_cpu": not self.cuda,
            "report_to": "none",
            "save_strategy": "no",
            "eval_strategy": "no",
            "logging_strategy": "no",
            "disable_tqdm": True,
            "seed": self.job["seed"],
        }


class Count:
    """Counts the tokens of each optimizer step, without padding, and tells the watch when a step ends."""

    def __init__(self, watch: Watch, accumulate: int) -> None:
        self._watch, self._accumulate = watch, accumulate
        self._batches: list[Any] = []

    def around(self, training_step: Callable[..., Any]) -> Callable[..., Any]:
        """Return a trainer's `training_step` that counts before it computes; the device is not waited for."""

        def counting(model: Any, inputs: dict[str, Any], *args: Any, **named: Any) -> Any:
            mask = inputs.get("attention_mask")
            self._batches.append(inputs["input_ids"].numel() if mask is None else mask.sum())
            return training_step(model, inputs, *args, **named)

        return counting

    def tokens(self) -> list[int]:
        """Return the tokens of each step so far."""
        found = [int(batch) for batch in self._batches]
        return [sum(found[i : i + self._accumulate]) for i in range(0, len(found), self._accumulate)]

    def result(self, steps: int) -> dict[str, Any]:
        """Return what the watch saw and the tokens of the same steps."""
        return self._watch.result() | {"tokens": self.tokens()[1:steps]}


def stop_clock(watch: Watch) -> Any:
    """Return a callback for a transformers Trainer that tells `watch` when a step ends."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]  # not in the type checker's environment
        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.step_done()

    return Clock()


def word_tokenizer(vocabulary: int) -> Any:
    """Return a tokenizer of as many words as the model has rows in its embedding; nothing is encoded with it."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, vocabulary)}
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    model = Tokenizer(WordLevel(words, unk_token=special["unk_token"]))
    return PreTrainedTokenizerFast(tokenizer_object=model, **special)


def run(measure: Callable[[Work], dict[str, Any]]) -> None:
    """Run `measure` on the job that the JSON file named on the command line describes, and print its result."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    case, sizes = CASES[job["case"]], TINY if job["tiny"] else Sizes()
    way = dict(case.peers[job["peer"]][job["way"]])
    steps = (job["steps"] + job["profiled"]) * (1 if case.rows == "prefix" else way.get("accumulate", 1))
    vocabulary = model_shape(case, tiny=job["tiny"])["vocab_size"]
    rows = make_rows(case, sizes, steps=steps, vocabulary=vocabulary, seed=job["seed"])
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Work(case, sizes, rows, way, job, folder))))
