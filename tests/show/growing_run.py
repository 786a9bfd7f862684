"""A run that grows under a test's hands: a few files at its start, then steps, validations, answers and alarms."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attune.record import RunFolder, plain
from attune.types import Alarm, ProbeRecord, StepRecord, ValidRecord

SECONDS_A_STEP = 0.5
TICKET = json.dumps({"product": "router", "urgency": "high"})


class GrowingRun:
    """A run folder as training writes it, a part at a time."""

    def __init__(
        self, path: Path, *, total: int = 200, rate: float = 1e-3, created: str = "2026-11-22T05:00:00"
    ) -> None:
        self.run = RunFolder.create(path)
        self.path = path
        self.total = total
        self.rate = rate
        self.step = 0
        self.run.write_json("manifest.json", {"format": 1, "created": created})
        self.run.write_text("config.yaml", f"model: starter\nout: {path.name}\ntrain:\n  learning_rate: {rate}\n")
        self.end("running")

    def train(self, steps: int) -> None:
        """Append steps whose loss falls from 4.5 towards 0.3, faster with a higher rate."""
        records = []
        for _ in range(steps):
            self.step += 1
            records.append(self._timed(self._record(self.step)))
        self.run.append("metrics.jsonl", *records)

    def validate(self, loss: float | None = None) -> None:
        """Append a validation, with what the guards measured and an answer to each of two prompts."""
        known = self.loss(self.step) + 0.1 if loss is None else loss
        share = math.exp(-known)
        valid = ValidRecord(self.step, known, share, math.exp(known), 40, 900)
        probe = ProbeRecord(
            self.step, known - 0.1, share, general_loss=3.1 + self.step / 1000, kl_general=self.step / 900
        )
        self.run.append("metrics.jsonl", self._timed(valid), self._timed(probe))
        texts = ("The router is dead.", "The parcel never came.")
        self.answer(*texts, answer=TICKET if self.step else "The the the")

    def answer(self, *prompts: str, answer: str) -> None:
        """Append an answer to each prompt: the base model's at step 0, else the tuned one's."""
        system = "tuned" if self.step else "base"
        known = {
            "step": self.step,
            "system": system,
            "file": "valid.jsonl",
            "reference": TICKET,
            "finished": bool(self.step),
        }
        samples = [
            {**known, "line": line, "prompt": prompt, "answer": answer} for line, prompt in enumerate(prompts, 1)
        ]
        self.run.append("samples.jsonl", *samples)

    def alarm(
        self, message: str = "The validation loss has risen.", *, name: str = "overfit", rows: Sequence[str] = ()
    ) -> None:
        """Append an alarm of severity warning at this step."""
        fix = "Stop here: --early_stop.patience 3"
        alarm = Alarm("G1", name, self.step, "warning", 2.4, 2.0, message, fix, tuple(rows))
        self.run.append("alarms.jsonl", alarm)
        self.run.event("alarm", message, step=self.step)

    def end(self, status: str = "done") -> None:
        """Write how the run stands."""
        self.run.write_json("result.json", {"status": status, "steps": self.step, "total_steps": self.total})

    def loss(self, step: int) -> float:
        """The loss of a step."""
        return 0.3 + 4.2 * math.exp(-self.rate * 40 * step)

    def _record(self, step: int) -> StepRecord:
        loss = self.loss(step) + 0.05 * math.sin(step)
        return StepRecord(
            step=step,
            loss=loss,
            accuracy=math.exp(-loss),
            perplexity=math.exp(loss),
            learning_rate=self.rate,
            epoch=step / 100,
            train_flos=1e9 * step,
            grad_norm=1 + loss,
            learned_tokens=500,
            tokens=1400,
            tokens_per_s=8000.0 + step,
            memory_gb=1.2,
        )

    def _timed(self, record: Any) -> dict[str, Any]:
        return {**plain(record), "time": SECONDS_A_STEP * record.step}
