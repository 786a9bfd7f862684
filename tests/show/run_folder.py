"""A complete run folder made of invented but consistent figures, and the texts that must not harm a page."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attune.record import RunFolder
from tests.show.watched import SPIKES, TICKET, make_alarms, write_watched

STEPS = 282
VALIDATE_EVERY = 28
HOSTILE = (
    "<script>window.harmed = 1</script>",
    '</script><img src=x onerror="window.harmed = 2">',
    "javascript:window.harmed=3",
    "\u202egnp.exe \u0000\u001b[31m red \u200b zero",
    '" onmouseover="window.harmed = 4" x="',
    "<!-- {{ 7 * 7 }} {% raw %} ${window.harmed = 5} -->",
    "</pre></article></main><iframe src=https://example.org></iframe><base href=https://example.org>",
)


def write_run(
    parent: Path, *, name: str = "tickets-1", steps: int = STEPS, evaluated: bool = True, hostile: bool = False
) -> Path:
    """Write a finished run of `steps` steps under `parent`, with its evaluation unless told otherwise."""
    run = RunFolder.create(parent / name)
    records = _metrics(steps)
    valids = [record for record in records if "val_loss" in record]
    best = min(valids, key=lambda record: record["val_loss"])
    run.write_text("config.yaml", CONFIG)
    run.write_json("manifest.json", MANIFEST)
    run.append(
        "ledger.jsonl",
        {"summary": LEDGER},
        {"file": "train.jsonl", "line": 1, "offset": 0, "state": "used", "reason": ""},
    )
    run.append("metrics.jsonl", *records)
    run.append("events.jsonl", *_events(best["step"], steps))
    write_watched(run, valids, steps, texts=HOSTILE if hostile else ())
    run.append("preview.jsonl", *_preview(hostile))
    run.write_json("findings.json", FINDINGS)
    run.write_json("result.json", _result(records, best["step"], steps))
    run.append("alarms.jsonl", *make_alarms(steps))
    if evaluated:
        run.write_json("eval/test.json", EVALUATION)
        run.write_lines("eval/test.jsonl", _eval_rows(hostile))
    return run.path


def _metrics(steps: int) -> list[dict[str, Any]]:
    """Return step and validation records of a run that overfits a little after two thirds of its way."""
    rng = random.Random(7)
    records = [_valid(0, 4.871, 0.0)]
    for step in range(1, steps + 1):
        part = step / steps
        loss = 0.31 + 4.4 * math.exp(-9 * part) + rng.gauss(0, 0.05 + 0.25 * math.exp(-6 * part))
        rate = 1e-3 * min(1.0, part / 0.05) * 0.5 * (1 + math.cos(math.pi * part))
        records.append(_step(step, max(loss, 0.05), part, rate=rate, noise=rng.random()))
        if step % VALIDATE_EVERY == 0 or step == steps:
            records.append(_valid(step, 0.38 + 4.4 * math.exp(-9 * part) + 0.35 * max(0.0, part - 0.7), part))
    return records


def _step(step: int, loss: float, part: float, *, rate: float, noise: float) -> dict[str, Any]:
    return {
        "step": step,
        "loss": loss,
        "accuracy": math.exp(-loss / 1.4),
        "perplexity": math.exp(loss),
        "learning_rate": rate,
        "epoch": 3 * part,
        "train_flos": 4.1e11 * step,
        "grad_norm": 9.5 if step in SPIKES else 0.4 + 2 * math.exp(-8 * part) + 0.3 * noise,
        "learned_tokens": 560 + step % 40,
        "tokens": 1420,
        "replay_loss": 3.1 + 0.05 * noise,
        "tokens_per_s": 8200 + 900 * noise,
        "memory_gb": 1.21 + 0.1 * part,
        "mfu": None,
        "time": 0.37 * step,
    }


def _valid(step: int, loss: float, part: float) -> dict[str, Any]:
    scores = {
        "val_loss": loss,
        "val_accuracy": math.exp(-loss / 1.4),
        "val_perplexity": math.exp(loss),
        "val_exact_match": max(0.0, 0.9 - loss) if step else 0.0,
    }
    return {"step": step, **scores, "val_rows": 200, "val_tokens": 7013, "time": 0.37 * step + 2}


def _events(best: int, steps: int) -> list[dict[str, Any]]:
    return [
        {"time": 0.1, "kind": "start", "message": "training starts"},
        {"time": 70.0, "kind": "best", "message": f"best validation loss at step {best}"},
        {"time": 98.2, "kind": "alarm", "message": "validation loss has been rising"},
        {"time": 0.37 * steps, "kind": "end", "message": "done"},
    ]


def _result(records: list[dict[str, Any]], best: int, steps: int) -> dict[str, Any]:
    last = [record for record in records if "loss" in record][-1]
    return {
        "run": "runs/tickets-1",
        "steps": steps,
        "best_step": best,
        "stopped_early": False,
        "status": "done",
        "total_steps": steps,
        "epochs": 3.0,
        "seconds": 0.37 * steps + 6,
        "metrics": {"loss": last["loss"]},
        "alarms": make_alarms(steps),
    }


def _preview(hostile: bool) -> list[dict[str, Any]]:
    texts = HOSTILE if hostile else ()
    rows = [
        _preview_row(
            line, "My router has been dead since Monday, order A-1042, please send a new one.", json.dumps(TICKET)
        )
        for line in range(1, 13)
    ]
    return [*(_preview_row(100 + index, text, text) for index, text in enumerate(texts)), *rows]


def _preview_row(line: int, asked: str, answer: str) -> dict[str, Any]:
    pieces = [[f"<|user|>\n{asked} ({line})\n<|assistant|>\n", 0], [f"{answer}<|end|>", 1], ["\n", 0]]
    return {
        "file": "train.jsonl",
        "line": line,
        "state": "cut" if line == 3 else "used",
        "tokens": 84,
        "learned": 41,
        "pieces": pieces,
    }


def _eval_rows(hostile: bool) -> list[dict[str, Any]]:
    prompts = [
        *(HOSTILE if hostile else ()),
        *(f"Message {index}: my router is dead, please replace it. Order A-1042." for index in range(1, 25)),
    ]
    return [_eval_row(index, prompt, hostile and index <= len(HOSTILE)) for index, prompt in enumerate(prompts, 1)]


def _eval_row(index: int, prompt: str, is_hostile: bool) -> dict[str, Any]:
    tuned = {**TICKET, "urgency": "low"} if index % 4 == 2 else TICKET
    answer = prompt if is_hostile else json.dumps(tuned)
    right = float(answer == json.dumps(TICKET))
    return {
        "file": "test.jsonl",
        "line": index,
        "prompt": prompt,
        "reference": prompt if is_hostile else json.dumps(TICKET),
        "answers": {"base": "I had a router and it was the first of the the first of the", "tuned": answer},
        "finished": {"base": False, "tuned": True},
        "scores": {"base": _scored(0.0, 0.0), "tuned": _scored(right, 1.0 if right else 0.8)},
    }


def _scored(exact: float, fields: float) -> dict[str, float]:
    valid = float(fields > 0)
    return {
        "exact_match": exact,
        "json_valid": valid,
        "schema_valid": valid,
        "field_accuracy": fields,
        "stop_rate": valid,
    }


def _compared(metric: str, values: Mapping[str, float], low: float, high: float) -> dict[str, Any]:
    difference = values["tuned"] - values["base"]
    known = {"metric": metric, "a": "base", "b": "tuned", "difference": difference, "low": low, "high": high}
    p, verdict = (1e-9, "better") if low * high > 0 else (0.41, "no evidence")
    return {**known, "p": p, "p_holm": p, "verdict": verdict, "rows": 200, "detectable": 0.021}


_SCORES = {
    "exact_match": ({"base": 0.0, "tuned": 0.745}, 0.68, 0.80),
    "json_valid": ({"base": 0.005, "tuned": 0.985}, 0.96, 0.995),
    "schema_valid": ({"base": 0.0, "tuned": 0.975}, 0.95, 0.99),
    "field_accuracy": ({"base": 0.0, "tuned": 0.932}, 0.91, 0.95),
    "stop_rate": ({"base": 0.99, "tuned": 1.0}, -0.005, 0.025),
    "loss": ({"base": 4.902, "tuned": 0.401}, -4.61, -4.39),
}
EVALUATION: dict[str, Any] = {
    "name": "test",
    "created": "2026-11-22T05:30:00",
    "data": "test.jsonl",
    "rows": 200,
    "seconds": 31.2,
    "max_new_tokens": 128,
    "systems": {
        system: {metric: values[system] for metric, (values, _, _) in _SCORES.items()} for system in ("base", "tuned")
    },
    "comparisons": [_compared(metric, *known) for metric, known in _SCORES.items()],
    "verdict": "The tuned model is better: fields right 0.0 % to 93.2 %, valid JSON 0.5 % to 98.5 %",
}
LEDGER: dict[str, Any] = {
    "rows": 1620,
    "counts": {"used": 1489, "cut": 11, "dropped": 14, "duplicate": 26, "held_out": 80},
    "reasons": {
        "held out: validation share": 80,
        "duplicate: same prompt and answer": 26,
        "cut: longer than data.max_length": 11,
        "dropped: empty answer": 9,
        "dropped: last turn is the user's": 5,
    },
    "tokens_in": 151302,
    "tokens_learned": 60411,
    "tokens_context": 119330,
    "tokens_lost": 1771,
    "augmented": 300,
    "tokens_augmented": 30210,
}
FINDINGS = [
    {
        "id": "D03",
        "name": "role-order",
        "severity": "warning",
        "rows": 5,
        "share": 0.003,
        "message": "The last turn is the user's, so nothing would be learned.",
        "fix": 'Add an answer, or drop such rows with data.on_empty = "drop".',
        "examples": [{"file": "train.jsonl", "line": 412, "text": "Hello?"}],
    },
    {
        "id": "D11",
        "name": "duplicates",
        "severity": "info",
        "rows": 26,
        "share": 0.016,
        "message": "Rows with the same prompt and answer.",
        "fix": "Nothing to do: one of each is kept.",
        "examples": [],
    },
]
MANIFEST = {
    "format": 1,
    "attune": "0.1.0",
    "created": "2026-11-22T05:12:09",
    "command": "attune train train.jsonl --model starter --train.epochs 3",
    "versions": {"python": "3.11.2", "torch": "2.13.0", "transformers": "5.23.0"},
    "model": {"name": "starter", "folder": "starter", "parameters": 9871360, "trainable": 9871360},
    "data": {"files": [{"file": "train.jsonl", "bytes": 512345, "sha256": "ab" * 32}]},
    "template": {"name": "plain", "sha256": "cd" * 32},
    "seed": 0,
    "device": "cpu",
    "precision": "float32",
    "attention": "exact",
    "attention_reason": "no cuda device",
    "threads": 2,
    "world_size": 1,
    "resolved": {
        "train.learning_rate": {"value": 0.001, "reason": "full fine-tuning of a model under 50 million parameters"},
        "device": {"value": "cpu", "reason": "no cuda device"},
    },
}
CONFIG = """model: starter
out: runs/tickets-1
seed: 0
data:
  train: train.jsonl
  valid_share: 0.05
  columns: {}
train:
  learning_rate: 0.001
  clip: 1.0
  epochs: 3.0
early_stop:
  metric: val_loss
"""
