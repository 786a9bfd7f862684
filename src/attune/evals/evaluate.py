"""`attune eval`: base and tuned model answer the same rows; the answers are scored, compared and written down."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attune.config import Config
from attune.config_file import load_run_config
from attune.data.encoding.template import open_template
from attune.data.encoding.tokenizer import load_tokenizer
from attune.data.prepare import read_examples
from attune.errors import CheckpointError, ConfigError
from attune.evals.compare import Comparison, compare, correct, verdict_text
from attune.evals.heldout import arithmetic, measure
from attune.evals.questions import Task, held_out_examples, learned_tokens, plan, spread
from attune.evals.tasks import score
from attune.model.folder import locate, model_length
from attune.model.generate import generate
from attune.model.load import load_model, load_tuned
from attune.record import RunFolder
from attune.world import resolve_device

Listener = Callable[[str, Any], None]
SYSTEMS = ("base", "tuned")
HELD_OUT = "held-out rows of the run"
MICRO_TOKENS = 4096  # where the run's own setting is not resolved
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


@dataclass(frozen=True)
class Outcome:
    """What one system did on every row: its answers, and its loss (None where the row has none)."""

    answers: tuple[str, ...]
    finished: tuple[bool, ...]
    row_loss: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and in which numbers the models run."""

    device: str
    precision: str
    micro_tokens: int


def evaluate(
    run: str | Path,
    *,
    data: str | None = None,
    max_new_tokens: int | None = None,
    limit: int | None = None,
    schema: str | None = None,
    name: str = "eval",
    seed: int = 0,
    device: str = "auto",
    on_event: Listener | None = None,
) -> dict[str, Any]:
    """Compare a run's tuned model with its base on its held-out rows, or on `data`; return the document of `eval`.

    Both answer greedily in the run's own chat template; a row of several turns is asked for its last answer. `schema`
    is a JSON Schema file; `limit` scores so many rows, evenly spread. Writes eval/NAME.json and eval/NAME.jsonl.
    Raises the UserError that names what is missing, before a model is loaded.
    """
    tell, started = on_event or _deaf, time.monotonic()
    folder = RunFolder.open(run)
    if not _NAME.fullmatch(name):
        raise ConfigError(f'name: "{name}" cannot name an evaluation: use letters, digits, . _ - (at most 80).')
    tuned = tuned_folder(folder)
    config = load_run_config(folder.path, folder.find)
    template = open_template("auto", load_tokenizer(tuned))
    examples = read_examples(data, config.data) if data is not None else held_out_examples(folder, config)
    base = locate(config.model)
    task = plan(
        spread(examples, limit), template, config, schema=schema, wish=max_new_tokens, context=model_length(base)
    )
    if task.questions:
        tell("note", f"answers of at most {task.max_new_tokens} tokens: {task.max_new_tokens_reason}")
    if bits := bits_in_training(config):
        tell("note", f"the base model has its full weights here; in training and its validation it had {bits} bits")
    machine = _machine(config, device)
    outcomes = {}
    for system, model in _models(tuned, base, config, machine):
        if task.questions:
            tell("progress", {"system": system, "rows": 0, "of": len(task.questions)})
        outcomes[system] = _measure(model, task, machine, partial(_tell_progress, tell, task, system))
        del model  # so that the base is gone before the tuned model comes
    scores = {system: _scores(task, outcomes[system]) for system in SYSTEMS}
    comparisons = _compare(task, scores, seed)
    document = {
        "run": str(folder.path),
        "name": name,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "data": data if data is not None else HELD_OUT,
        **_figures(task, comparisons),
        **asdict(machine),
        "seconds": round(time.monotonic() - started, 3),
    }
    folder.write_lines(f"eval/{name}.jsonl", _lines(task, outcomes, scores))
    folder.write_json(f"eval/{name}.json", document)
    tell("evaluated", document)
    return document


def tuned_folder(run: RunFolder) -> Path:
    """Return the folder of a run's tuned model. Raises: CheckpointError when there is none (any more)."""
    folder = run.path / "model"
    if any((folder / file).is_file() for file in ("config.json", "adapter_config.json")):
        return folder
    if (run.path / "result.json").is_file() and run.read_json("result.json").get("status") == "done":
        raise CheckpointError(
            f"{run.path} is finished, but its model is gone. Restore {folder}, or train anew with another --out."
        )
    raise CheckpointError(f"{run.path} holds no model yet. Finish the run: attune resume {run.path}")


def _figures(task: Task, comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Return what was measured, as the document of `eval` names it."""
    values = {system: {c.metric: c.a_value if system == c.a else c.b_value for c in comparisons} for system in SYSTEMS}
    return {
        "rows": len(task.examples),
        "rows_without_loss": int((~task.measurable).sum()),
        "max_new_tokens": task.max_new_tokens,
        "max_new_tokens_reason": task.max_new_tokens_reason,
        "systems": values,
        "comparisons": [asdict(comparison) for comparison in comparisons],
        "verdict": verdict_text(comparisons),
    }


def _deaf(kind: str, payload: Any) -> None:
    """Hear nothing."""


def _tell_progress(tell: Listener, task: Task, system: str, rows: int) -> None:
    tell("progress", {"system": system, "rows": rows, "of": len(task.questions)})


def _machine(config: Config, device: str) -> Machine:
    """Return the run's own precision where its device is there, else what the device at hand does best."""
    chosen = resolve_device(device)
    is_same = chosen == config.device and config.precision != "auto"
    precision = str(config.precision) if is_same else "float32" if chosen == "cpu" else "bfloat16"
    micro = config.train.micro_tokens
    return Machine(chosen, precision, MICRO_TOKENS if micro == "auto" else micro)


def bits_in_training(config: Config) -> int:
    """Return the bits in which a run held the frozen base of its adapter, 0 where it was not quantised."""
    if config.adapter.kind == "qlora":
        return 4
    return 8 if config.train.fp8 and config.adapter.kind == "lora" else 0


def _models(tuned_folder: Path, base: Path, config: Config, machine: Machine) -> Iterator[tuple[str, Any]]:
    """Yield ("base", model), then ("tuned", model); an adapter's base is itself switched off, and loaded once."""
    options: dict[str, Any] = {
        "device": machine.device,
        "precision": machine.precision,
        "attention": "auto",
        "trust_remote_code": config.trust_remote_code,
    }
    if (tuned_folder / "adapter_config.json").is_file():
        model = load_tuned(tuned_folder, **options)
        with model.disable_adapter():
            yield "base", model
        yield "tuned", model
        return
    yield "base", load_model(base, **options)
    yield "tuned", load_tuned(tuned_folder, **options)


def _measure(model: Any, task: Task, machine: Machine, on_rows: Callable[[int], None]) -> Outcome:
    """Return what a model answers, and its loss on every row that has one."""
    with arithmetic(machine.precision, torch.device(machine.device)):
        made = generate(
            model,
            [question.prompt_ids for question in task.questions],
            stop_ids=task.template.stop_ids,
            max_new_tokens=task.max_new_tokens,
            on_rows=on_rows,
        )
    losses: list[float | None] = [None] * task.corpus.num_rows
    if task.measurable.any():
        corpus = task.corpus.keep(task.measurable)
        options: dict[str, Any] = {"device": machine.device, "precision": machine.precision}
        measured = measure(model, corpus, micro_tokens=machine.micro_tokens, **options)
        for row, loss in zip(np.flatnonzero(task.measurable), measured.row_loss, strict=True):
            losses[int(row)] = float(loss)
    answers = tuple(task.template.tokenizer.decode(answer.tokens) for answer in made)
    return Outcome(answers, tuple(answer.finished for answer in made), tuple(losses))


def _scores(task: Task, outcome: Outcome) -> list[dict[str, float]]:
    """Return every row's scores by metric, loss among them."""
    rows: list[dict[str, float]] = [{} for _ in task.examples]
    for row, question, answer, finished in zip(rows, task.questions, outcome.answers, outcome.finished, strict=False):
        row.update(score(task.metrics, answer, question.reference, finished=finished, schema=task.schema))
    for row, loss in zip(rows, outcome.row_loss, strict=True):
        if loss is not None:
            row["loss"] = loss
    return rows


def _compare(task: Task, scores: dict[str, list[dict[str, float]]], seed: int) -> list[Comparison]:
    """Return tuned against base on every metric that a row has, corrected for their number."""
    tokens = learned_tokens(task.corpus).astype(np.float64).tolist()
    found = []
    for metric in (*task.metrics, "loss"):
        base, tuned = ([row.get(metric) for row in scores[system]] for system in SYSTEMS)
        if all(value is None for value in base):
            continue
        is_loss = metric == "loss"
        weights = tokens if is_loss else None  # the mean over learned tokens, as in training
        sides = ("base", base), ("tuned", tuned)
        found.append(compare(metric, *sides, weights=weights, higher_is_better=not is_loss, seed=seed))
    return correct(found)


def _lines(
    task: Task, outcomes: dict[str, Outcome], scores: dict[str, list[dict[str, float]]]
) -> Iterator[dict[str, Any]]:
    """Yield a record per row: where it stands, what was asked and wanted, what each system said and scored."""
    for number, example in enumerate(task.examples):
        question = task.questions[number] if task.questions else None
        yield {
            "file": example.place.file,
            "line": example.place.line,
            "prompt": question.prompt if question else "",
            "reference": question.reference if question else example.text,
            "answers": {system: outcomes[system].answers[number] for system in SYSTEMS if question},
            "finished": {system: outcomes[system].finished[number] for system in SYSTEMS if question},
            "scores": {system: scores[system][number] for system in SYSTEMS},
        }
