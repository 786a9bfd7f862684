"""attune's side of cpu_vs_trl.py: one measurement, described by a JSON file.

Prints one JSON object on the last line of stdout.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from attune.config import Config


def measure_training(job: dict[str, Any], folder: str) -> dict[str, Any]:
    """Tokens and seconds of the steps after the warm-up ones, through the same call that users make."""
    import torch

    from attune.train.run import finetune

    torch.set_num_threads(job["threads"])
    values = {
        "model": job["model"],
        "out": str(Path(folder) / "run"),
        "device": "cpu",
        "precision": "float32",
        "seed": job["seed"],
        "data.train": job["rows"],
        "data.valid_share": 0.0,
        "data.template": "none",
        "data.max_length": job["max_length"],
        "train.steps": job["steps"],
        "train.batch_rows": job["batch_rows"],
        "train.learning_rate": job["learning_rate"],
        "checkpoint.every": job["steps"],
    }
    ends: list[float] = []
    used: list[float] = []  # processor time
    steps: list[Any] = []
    corpora: list[Any] = []

    def follow(kind: str, payload: Any) -> None:
        if kind == "step":
            ends.append(time.perf_counter())
            used.append(time.process_time())
            steps.append(payload)
        elif kind == "data":
            corpora.append(payload.train)

    finetune(Config().with_values(values), on_event=follow)
    measured = steps[job["warmup"] :]
    return {
        "seconds": ends[-1] - ends[job["warmup"] - 1],
        "cpu_seconds": used[-1] - used[job["warmup"] - 1],
        "steps": len(measured),
        "tokens": sum(step.tokens for step in measured),
        "learned_tokens": sum(step.learned_tokens for step in measured),
        "computed_positions": sum(step.tokens for step in measured),
        "rows": corpora[0].num_rows,
        "learned_tokens_of_all_rows": corpora[0].num_learned,
    }


def preparing(job: dict[str, Any]) -> Config:
    """The settings of a preparation; the template is what attune takes of itself for such a tokenizer."""
    values = {
        "data.train": job["rows"],
        "data.valid_share": 0.0,
        "data.template": job["template"],
        "data.max_length": job["max_length"],
        "data.overlong": "cut",
        "data.cache": "off",  # else the first repeat would make the others
    }
    return Config().with_values(values)


def measure_preparation(job: dict[str, Any], _: str) -> dict[str, Any]:
    """Seconds from the file to the micro-batches of one epoch: read, render, tokenise, mask, verify, lay out."""
    from attune.data.encoding.tokenizer import load_tokenizer
    from attune.data.layout import lay_out
    from attune.data.prepare import prepare
    from attune.data.stream import Stream

    tokenizer = load_tokenizer(Path(job["tokenizer"]))
    begin, used = time.perf_counter(), time.process_time()
    prepared = prepare(preparing(job), tokenizer, model_length=None)
    corpus = prepared.train
    stream = Stream(corpus.lengths, seed=0, batch_rows=16, batch_tokens=0)
    for step in range(1, stream.steps_per_epoch(0) + 1):
        lay_out(corpus.lengths[stream.rows(step)].tolist(), 4096)
    return {
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": time.process_time() - used,
        "rows_in": prepared.ledger.rows,
        "rows": corpus.num_rows,
        "tokens": len(corpus.tokens),
        "learned_tokens": corpus.num_learned,
    }


def measure_encoding(job: dict[str, Any], _: str) -> dict[str, Any]:
    """Seconds of the tokenizer's own batch encoding of the same rendered text: the floor under any preparation."""
    from attune.data.encoding.template import open_template
    from attune.data.encoding.tokenizer import load_tokenizer
    from attune.data.prepare import read_examples

    config, tokenizer = preparing(job), load_tokenizer(Path(job["tokenizer"]))
    template = open_template(config.data.template, tokenizer)
    texts = [template.render(example).text for example in read_examples(job["rows"], config.data)]
    begin, used = time.perf_counter(), time.process_time()
    encodings = tokenizer.backend.encode_batch(texts, add_special_tokens=False)
    return {
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": time.process_time() - used,
        "rows_in": len(texts),
        "rows": len(texts),
        "tokens": sum(len(encoding.ids) for encoding in encodings),
    }


MEASURES = {"train": measure_training, "prepare": measure_preparation, "encode": measure_encoding}


def main() -> None:
    """Run the measurement that the JSON file named on the command line describes."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        result = MEASURES[job["kind"]](job, folder)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
