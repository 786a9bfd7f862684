"""One run of guards.py in a process of its own: make the rows, train through `finetune`, read the run folder.

Started by guards.py with a description of the job; prints what came of it as one line of JSON.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from attune.bundled import starter_folder
from attune.config import Config
from attune.data.prepared import Prepared
from attune.errors import UserError
from attune.record import RunFolder
from attune.train.defaults import stream_of
from attune.train.run import finetune
from benchmarks.guard_cases import ALLOWED, CASES, Case, Draw, Rows
from benchmarks.guard_faults import FAULTS
from benchmarks.guard_rows import draw_tickets, is_noise, ticket, write_rows

Line = Mapping[str, Any]
Curve = list[tuple[float, float]]  # steps and the damage that is done by then

CHAT_STEPS = 120
KNOWN, SMOOTH = 0.98, 6  # share of learned tokens that are right, on average over so many steps
COST_STEPS = 300


def settings_of(case: Case, rows: Rows, folder: Path, job: Mapping[str, Any]) -> Config:
    """Return the config of a run whose rows are written into `folder`."""
    values = {
        "model": job["models"][case.model],
        "out": str(folder / "run"),
        "seed": job["seed"],
        "device": job["device"],
        "data.train": write_rows(folder / "train.jsonl", rows.train),
        "data.cache": "off",
        "data.allow": [] if case.is_clean else list(ALLOWED),
        "checkpoint.every": case.settings["train.steps"],
        "checkpoint.keep": 1,
    }
    if rows.valid:
        values["data.valid"] = write_rows(folder / "valid.jsonl", rows.valid)
    else:
        values["data.valid_share"] = 0.12  # of a few hundred rows enough to test by
    return Config().with_values(values | dict(case.settings) | job.get("set", {}))


def run_case(job: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Train one case with one seed and return its alarms, its curve of damage and how it ended.

    Raises: UserError where the run did not even begin.
    """
    case = CASES[job["case"]]
    text = Path(job["text"]) if job.get("text") else None
    rows = case.rows(Draw(random.Random(f"{case.name} {job['seed']}"), text))
    config = settings_of(case, rows, folder, job)
    seen: dict[str, Prepared] = {}

    def hear(kind: str, payload: Any) -> None:
        if kind == "data":
            seen["prepared"] = payload

    began, ended = time.perf_counter(), "done"
    try:
        with FAULTS[case.fault]():
            finetune(config, on_event=hear)
    except UserError as error:
        if not (folder / "run" / "metrics.jsonl").exists():
            raise
        ended = str(error).splitlines()[0]
    if job.get("keep"):
        kept = Path(job["keep"]) / f"{case.name}-{job['seed']}"
        shutil.copytree(folder / "run", kept, ignore=shutil.ignore_patterns("checkpoints", "model", "guards"))
    noisy = noisy_steps(seen["prepared"], config, rows.train) if case.damage == "noise" else {}
    return {
        "case": case.name,
        "seed": job["seed"],
        "seconds": round(time.perf_counter() - began, 2),
        "ended": ended,
        **read_run(folder / "run", case, steps=int(case.settings["train.steps"]), noisy=noisy),
    }


def noisy_steps(prepared: Prepared, config: Config, rows: Sequence[Mapping[str, str]]) -> dict[int, list[str]]:
    """Return the steps that train rows of meaningless letters, with the places of those rows."""
    stream, found = stream_of(prepared.train, config), dict[int, list[str]]()
    assert config.train.steps != "auto"
    for step in range(1, config.train.steps + 1):
        places = [prepared.train.places[int(row)] for row in stream.rows(step)]
        if bad := [str(place) for place in places if is_noise(rows[place.line - 1])]:
            found[step] = bad
    return found


def read_run(path: Path, case: Case, *, steps: int, noisy: Mapping[int, Sequence[str]]) -> dict[str, Any]:
    """Return what a run folder says of its alarms and of the damage that was done."""
    run = RunFolder.open(path)
    metrics, samples, alarms = (run.read_lines(f"{name}.jsonl") for name in ("metrics", "samples", "alarms"))
    named = {place for alarm in alarms for place in alarm.get("rows", ())}
    culprits = {place for places in noisy.values() for place in places}
    return {
        "alarms": [{key: value for key, value in alarm.items() if key != "rows"} for alarm in alarms],
        "curve": damage_of(case, metrics, samples, steps=steps, noisy=sorted(noisy)),
        "culprits": len(culprits),
        "named": len(culprits & named),
        "last": next((line for line in reversed(metrics) if "val_loss" in line), {}),
        "probes": [line for line in metrics if "probe_loss" in line],
    }


def damage_of(
    case: Case, metrics: Sequence[Line], samples: Sequence[Line], *, steps: int, noisy: Sequence[int] = ()
) -> Curve:
    """Return the damage that is done by each step at which it was measured; never from what a guard said."""
    if case.damage == "valid":
        return above_lowest([(line["step"], line["val_loss"]) for line in metrics if "val_loss" in line])
    if case.damage == "general":
        found = [(line["step"], line["general_loss"]) for line in metrics if line.get("general_loss") is not None]
        return [(step, max(0.0, loss - found[0][1])) for step, loss in found]
    if case.damage == "sure":
        answers: dict[int, list[bool]] = {}
        for line in samples:
            answers.setdefault(line["step"], []).append(line["answer"].lstrip().startswith("Sure!"))
        return summed([(step, sum(said) / len(said)) for step, said in sorted(answers.items())])
    if case.damage == "idle":
        right = [(line["step"], line["accuracy"]) for line in metrics if "loss" in line]
        return summed([(0, 0.0), *((step, float(known >= KNOWN)) for step, known in smoothed(right))])
    if case.damage == "noise":
        return [(0, 0.0), *((step, float(count)) for count, step in enumerate(noisy, 1))]
    from benchmarks.guard_faults import POISONED_STEP

    return [(POISONED_STEP if case.fault == "nan" else 0, 0.0), (steps, 1.0)]


def summed(shares: Sequence[tuple[float, float]]) -> Curve:
    """Return the sum of a share over the steps so far, which changes in straight lines from step to step."""
    found, total = [(shares[0][0], 0.0)] if shares else [], 0.0
    for (before, low), (step, high) in pairwise(shares):
        total += (step - before) * (low + high) / 2
        found.append((step, total))
    return found


def smoothed(values: Sequence[tuple[float, float]]) -> Curve:
    """Return each value as the mean of the last few."""
    means = ([value for _, value in values[max(0, at - SMOOTH + 1) : at + 1]] for at in range(len(values)))
    return [(step, sum(last) / len(last)) for (step, _), last in zip(values, means, strict=True)]


def above_lowest(losses: Sequence[tuple[float, float]]) -> Curve:
    """Return how far each loss after the lowest one stands above it; nothing is lost before."""
    if not losses:
        return []
    lowest = min(range(len(losses)), key=lambda number: losses[number][1])
    return [(step, loss - losses[lowest][1] if at > lowest else 0.0) for at, (step, loss) in enumerate(losses)]


def half_of(curve: Sequence[tuple[float, float]]) -> float | None:
    """Return the step by which half of the largest damage is done, between two measurements in a straight line."""
    half = max((value for _, value in curve), default=0.0) / 2
    if half <= 0:
        return None
    before, low = curve[0]
    for step, value in curve:
        if value >= half:
            return step if value == low else before + (step - before) * (half - low) / (value - low)
        before, low = step, value
    return None


def make_chat_model(job: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Tune the starter model with chatml, so that it has a template of its own, and keep it at job["to"]."""
    rows = draw_tickets(random.Random("chat"), "train", 960, ticket)
    values = {
        "model": str(starter_folder()),
        "out": str(folder / "run"),
        "device": job["device"],
        "data.train": write_rows(folder / "train.jsonl", rows),
        "data.template": "chatml",
        "data.valid_share": 0.0,
        "data.cache": "off",
        "train.steps": CHAT_STEPS,
        "train.batch_rows": 8,
        "train.learning_rate": 5e-4,
        "guards.enabled": False,
    }
    run = finetune(Config().with_values(values))
    shutil.copytree(run.folder / "model", job["to"])
    return {"model": job["to"]}


def make_scrambled_model(job: Mapping[str, Any], _folder: Path) -> dict[str, Any]:
    """Write the starter model with its vocabulary in a random order, as if it had another tokenizer, to job["to"]."""
    shutil.copytree(starter_folder(), job["to"])
    file = Path(job["to"]) / "model.safetensors"
    file.chmod(0o644)
    weights = load_file(file)
    rows = weights["model.embed_tokens.weight"]
    weights["model.embed_tokens.weight"] = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    save_file(weights, file, metadata={"format": "pt"})
    return {"model": job["to"]}


def time_guards(job: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Train clean rows at default frequency, with the guards or without, and return the seconds of the training.

    They count from the moment the model is loaded to the end, with all validations and everything before step 1.
    """
    case = CASES[job["case"]]
    text = Path(job["text"]) if job.get("text") else None
    rows = case.rows(Draw(random.Random("cost"), text))
    config = settings_of(case, rows, folder, job).with_values(
        {"train.steps": COST_STEPS, "valid.every": "auto", "checkpoint.every": "auto", "guards.enabled": job["guards"]}
    )
    times: dict[str, float] = {}

    def hear(kind: str, _payload: Any) -> None:
        times.setdefault(kind, time.perf_counter())

    finetune(config, on_event=hear)
    metrics = RunFolder.open(folder / "run").read_lines("metrics.jsonl")
    return {
        "seconds": times["done"] - times["plan"],
        "probes": sum(line["seconds"] for line in metrics if "probe_loss" in line),
        "steps": COST_STEPS,
    }


KINDS = {"case": run_case, "chat": make_chat_model, "scrambled": make_scrambled_model, "cost": time_guards}


def main() -> None:
    """Do the job that the file named on the command line describes."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(KINDS[job["kind"]](job, Path(folder))))


if __name__ == "__main__":
    main()
