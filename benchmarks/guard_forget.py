"""One run of forgetting.py in a process of its own: tune in one way, and return score and general loss as they went.

Started by forgetting.py with a description of the job; prints what came of it as one line of JSON.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attune.bundled import starter_folder, tickets_folder
from attune.config import Config
from attune.record import RunFolder
from attune.train.run import finetune

HEADING = re.compile(r"^\s*=\s*([^=]+?)\s*=\s*$")  # of an article, as WikiText writes it
KNOWN = ("Nero",)  # an article that the starter model was trained on: it is no held-out text
LEAST_CHARACTERS = 200  # shorter paragraphs are headings, lists and leftovers
MEASURED_ROWS, VALID_ROWS = 64, 100

WAYS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "plain": ("full fine-tuning, learning rate 5e-4", {"train.learning_rate": 5e-4}),
    "lower-rate": ("full, learning rate 2e-4", {"train.learning_rate": 2e-4}),
    "lora": ("LoRA of rank 16, learning rate 2e-3", {"adapter.kind": "lora", "train.learning_rate": 2e-3}),
    "lora-small": (
        "LoRA of rank 4, learning rate 3e-3",
        {"adapter.kind": "lora", "adapter.rank": 4, "adapter.alpha": 8.0, "train.learning_rate": 3e-3},
    ),
    "replay": ("as plain, with replay of a file", {"train.learning_rate": 5e-4, "replay.source": "FILE"}),
    "self": ("as plain, with self-replay (by KL, the default)", {"train.learning_rate": 5e-4, "replay.source": "self"}),
    "self-text": (
        "as plain, with self-replay, its texts learned, no KL",
        {"train.learning_rate": 5e-4, "replay.source": "self", "replay.kl": 0.0},
    ),
    "self-both": (
        "as plain, with self-replay, learned and by KL",
        {"train.learning_rate": 5e-4, "replay.source": "self", "replay.weight": 1.0},
    ),
    "file-kl": (
        "as plain, with replay of a file and KL",
        {"train.learning_rate": 5e-4, "replay.source": "FILE", "replay.kl": 1.0},
    ),
}


def paragraphs(file: Path) -> Iterator[str]:
    """Yield the longer paragraphs of a text file, without the articles that the starter model knows."""
    title = ""
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            if found := HEADING.match(line):
                title = found[1]
            elif len(line.strip()) >= LEAST_CHARACTERS and title not in KNOWN:
                yield line.strip()


def split_text(file: Path, folder: Path) -> tuple[Path, Path]:
    """Write the first half of a text as what is measured and the second as what is replayed; return both files."""
    found = list(paragraphs(file))
    half = len(found) // 2
    parts = (folder / "measured.jsonl", found[:half]), (folder / "replayed.jsonl", found[half:])
    for path, texts in parts:
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return parts[0][0], parts[1][0]


def config_of(job: Mapping[str, Any], folder: Path) -> Config:
    """Return the config of a way with a seed; the texts are split into `folder`."""
    measured, replayed = split_text(Path(job["text"]), folder)
    rows = (tickets_folder() / "valid.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "valid.jsonl").write_text("".join(rows[:VALID_ROWS]), encoding="utf-8")
    values: dict[str, Any] = {
        "model": str(starter_folder()),
        "out": str(folder / "run"),
        "seed": job["seed"],
        "device": job["device"],
        "data.train": str(tickets_folder() / "train.jsonl"),
        "data.valid": str(folder / "valid.jsonl"),
        "data.cache": "off",
        "train.steps": job["steps"],
        "train.batch_rows": 4,
        "train.beta2": 0.99,
        "train.schedule": "constant",  # any step may be the one where the level is reached
        "valid.every": job["every"],
        "checkpoint.every": job["steps"],
        "checkpoint.keep": 1,
        "guards.general": str(measured),
        "guards.rows": MEASURED_ROWS,
        "guards.prompts": 0 if job["metric"].startswith("val_") else VALID_ROWS,
        **{key: str(replayed) if value == "FILE" else value for key, value in WAYS[job["way"]][1].items()},
        **job.get("set", {}),
    }
    return Config().with_values(values)


def tune(job: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Train in one way with one seed and return a point for every validation."""
    config = config_of(job, folder)
    began = time.perf_counter()
    finetune(config)
    lines = RunFolder.open(folder / "run").read_lines("metrics.jsonl")
    return {
        "way": job["way"],
        "seed": job["seed"],
        "seconds": round(time.perf_counter() - began, 1),
        "points": points_of(lines, job["metric"]),
    }


def points_of(lines: Sequence[Mapping[str, Any]], metric: str) -> list[dict[str, float]]:
    """Return step, task score, general loss and divergence of every validation; a loss counts as its negative."""
    valid = {line["step"]: line for line in lines if "val_loss" in line}
    found = []
    for probe in (line for line in lines if line.get("general_loss") is not None):
        record = valid[probe["step"]]
        score = record[metric] if metric in record else probe["scores"].get(metric, 0.0)
        found.append(
            {
                "step": probe["step"],
                "score": -score if metric.endswith("_loss") else score,
                "general": probe["general_loss"],
                "kl": probe["kl_general"],
            }
        )
    return found


def main() -> None:
    """Do the job that the file named on the command line describes."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(tune(job, Path(folder))))


if __name__ == "__main__":
    main()
