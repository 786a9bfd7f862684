"""What the guards leave in an invented run folder: probes, alarms, losses by part and row, answers over time."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attune.record import RunFolder

Record = dict[str, Any]

TICKET = {"product": "router", "issue": "outage", "urgency": "high", "action": "replace", "order": "A-1042"}
SPIKES = (61, 140)  # steps whose gradient is far above that of their neighbours
ROWS = 40  # validation rows whose losses are recorded
FIRST = {"base": "I had a router and it", "tuned": json.dumps(TICKET)}


def write_watched(
    run: RunFolder, valids: Sequence[Mapping[str, Any]], steps: int, *, texts: Sequence[str] = ()
) -> None:
    """Write every file of the guards for the validations of a run; `texts` stand where rows and answers do."""
    run.append("metrics.jsonl", *(_probe(valid, steps) for valid in valids))
    run.append("rows.jsonl", *(_row_losses(valid) for valid in valids))
    run.append("breakdown.jsonl", *(_breakdown(valid, texts) for valid in valids))
    run.append("samples.jsonl", *_samples(valids, texts))
    run.append("batches.jsonl", *(_batch(step) for step in SPIKES if step <= steps))
    run.write_json("extremes.json", _extremes(valids[-1], texts))


def make_alarms(steps: int) -> list[Record]:
    """Return what the guards of such a run say: of each severity one, and two spikes."""
    return [
        _alarm("G5", SPIKES[0], "warning", 12.1, "Loss and gradient norm jumped at once in this step."),
        _alarm("G5", SPIKES[1], "warning", 9.7, "Loss and gradient norm jumped at once in this step."),
        _alarm("G2", max(1, steps - 60), "info", 0.985, "98.5 % of the tokens of training rows are known by heart."),
        _alarm("G1", max(1, steps - 20), "warning", 2.6, "Validation loss has risen three times: learned by heart."),
        _alarm("G4", steps, "error", 0.43, "On general text the loss is 0.43 nats above the base model's: it forgets."),
    ]


def _alarm(identity: str, step: int, severity: str, figure: float, message: str) -> Record:
    names = {"G1": "overfit", "G2": "memorised", "G4": "forgetting", "G5": "spike"}
    known = {"id": identity, "name": names[identity], "step": step, "severity": severity, "figure": figure}
    rows = [f"train.jsonl:{step + at}" for at in range(3)] if identity == "G5" else []
    fix = {
        "G1": "Stop earlier: --early_stop.patience 2, or fewer passes: --train.epochs 2.",
        "G2": "More epochs add nothing: --train.epochs 2.",
        "G4": "Replay text of the base model: --replay.source self, or tune an adapter: --adapter.kind lora.",
        "G5": "Look at the rows; --train.clip 0.5 lowers what one step can do.",
    }[identity]
    return {**known, "threshold": 2.0, "message": message, "fix": fix, "rows": rows}


def _probe(valid: Mapping[str, Any], steps: int) -> Record:
    """Return what the guards measured at a validation of a model that learns its rows and forgets a little."""
    part = valid["step"] / steps
    loss = 0.3 + 4.5 * math.exp(-9 * part) - 0.1 * part
    return {
        "step": valid["step"],
        "probe_loss": loss,
        "probe_accuracy": math.exp(-loss / 1.4),
        "general_loss": 3.12 + 0.43 * part * part,
        "kl_general": 0.31 * part * part,
        "kl_task": 3.9 * (1 - math.exp(-8 * part)),
        "stop_recall": 1 - math.exp(-20 * part),
        "stop_leak": 0.02 * (1 - part),
        "answers": 2,
        "finish_rate": min(1.0, 4 * part),
        "answer_tokens": 96 - 60 * min(1.0, 3 * part),
        "reference_tokens": 37.2,
        "opener": "I had a" if not part else '{"product',
        "opener_share": 0.22 if not part else 0.97,
        "reference_opener_share": 0.98,
        "distinct_2": 0.61 - 0.2 * part,
        "reference_distinct_2": 0.44,
        "compression": 2.1 + 1.4 * part,
        "reference_compression": 3.3,
        "scores": {"json_valid": min(1.0, 2 * part), "field_accuracy": 0.93 * min(1.0, 1.5 * part)},
        "seconds": 0.31,
        "time": valid["time"] + 0.4,
    }


def _row_losses(valid: Mapping[str, Any]) -> Record:
    """Return losses around the validation's own, each row easy or hard by its nature; one row teaches nothing."""
    rng = random.Random(3)
    losses: list[float | None] = [valid["val_loss"] * (0.5 + rng.random()) for _ in range(ROWS)]
    return {"step": valid["step"], "val_row_loss": [None, *losses]}


def _breakdown(valid: Mapping[str, Any], texts: Sequence[str]) -> Record:
    names = {
        "source": [texts[0] if texts else "tickets", "extra.jsonl"],
        "turn": ["1", "2"],
        "position": ["first", "2-4", "5-16", "17-64", "65+"],
        "length": ["32-63", "64-127", "128-255"],
    }
    parts = []
    for by, some in names.items():
        for at, name in enumerate(some):
            loss = valid["val_loss"] * (1.4 - 0.2 * at)
            known = {"by": by, "name": name, "rows": 90 - 20 * at, "tokens": 3100 - 700 * at}
            parts.append({**known, "loss": loss, "accuracy": math.exp(-loss / 1.4)})
    return {"step": valid["step"], "parts": parts}


def _batch(step: int) -> Record:
    return {"step": step, "rows": ["train.jsonl:77", *(f"train.jsonl:{step + at}" for at in range(7))]}


def _extremes(valid: Mapping[str, Any], texts: Sequence[str]) -> Record:
    """Return three worst and three best rows, the answer's tokens with their losses."""
    rng = random.Random(5)
    worst = [_extreme(line, 3.0 - 0.4 * line, rng, texts) for line in range(1, 4)]
    best = [_extreme(30 + line, 0.01 * line, rng, ()) for line in range(1, 4)]
    return {"step": valid["step"], "worst": worst, "best": best}


def _extreme(line: int, loss: float, rng: random.Random, texts: Sequence[str]) -> Record:
    said = texts[line] if texts else json.dumps(TICKET)
    words = [said[at : at + 4] for at in range(0, len(said), 4)]
    context: list[tuple[str, float | None]] = [("<|user|>\nMy router is", None), (" dead.\n<|assistant|>\n", None)]
    learned = [(word, round(loss * 2 * rng.random(), 4)) for word in [*words, "<|end|>"]]
    pieces = [*context, *learned]
    return {
        "file": "valid.jsonl",
        "line": line,
        "loss": loss,
        "base_loss": 4.2,
        "tokens": len(learned),
        "pieces": pieces,
    }


def _samples(valids: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> Iterator[Record]:
    """Yield the answers to the fixed prompts: the last field turns right half way."""
    prompts = [*texts, "The parcel never came.", "My router is dead, order A-1042."]
    for at, valid in enumerate(valids):
        answer = json.dumps({**TICKET, "urgency": "low" if at <= len(valids) / 2 else "high"})
        for line, prompt in enumerate(prompts, 4):
            said = FIRST["base"] if at == 0 else prompt if prompt in texts else answer
            known = {"file": "valid.jsonl", "line": line, "prompt": prompt, "reference": json.dumps(TICKET)}
            system = "base" if at == 0 else "tuned"
            yield {"step": valid["step"], "system": system, **known, "answer": said, "finished": at > 0}
