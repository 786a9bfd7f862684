"""Whether fast ways of training learn as the plain ones do, on real text: loss curves of the same rows, side by side.

Each pair is trained with the same seed, the plain side with other seeds, too: what those differ by is the noise.
Ends with code 1 when a fast way differs from its plain one by more.
Run: python benchmarks/gpu_curves.py --pairs fp8,kernels,moments,cpu --steps 200
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from attune.bundled import starter_folder, tickets_folder
from attune.config import Config
from attune.model.fp8 import hold_in_fp8
from attune.train import ready
from attune.train.run import finetune

LORA = {"adapter.kind": "lora"}  # in bfloat16 on a GPU
PLAIN = {"train.kernels": "plain", "train.compile": False, "attention": "exact", "data.share_prefixes": False}
PAIRS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "fp8": (LORA, {**LORA, "train.fp8": True}),
    "kernels": (PLAIN, {}),
    "moments": ({"precision": "bfloat16"}, {"precision": "bfloat16", "train.optimizer": "adamw_8bit"}),
    "rounding": ({"precision": "bfloat16"}, {"precision": "bfloat16", "train.rounding": "stochastic"}),
    "fused": ({**PLAIN, "precision": "float32"}, {**PLAIN, "precision": "float32", "train.kernels": "fused"}),
    "cpu": ({**PLAIN, "device": "cpu", "precision": "float32"}, {}),
}
TAIL = 20  # the last steps, whose mean loss is compared
LEAST_NOISE = 0.002  # as a share of the loss: seeds may agree by chance


@dataclass(frozen=True, slots=True)
class Curve:
    """What one training came to: every step's loss, the mean of the last ones, and the loss on held-out rows."""

    losses: list[float]
    end: float
    valid: float


def train(values: Mapping[str, Any], arguments: argparse.Namespace, seed: int) -> Curve:
    """Train once and return its curve."""
    losses: list[float] = []
    valid: list[float] = []

    def follow(kind: str, payload: Any) -> None:
        if kind == "step":
            losses.append(payload.loss)
        elif kind == "valid":
            valid.append(payload.val_loss)

    with tempfile.TemporaryDirectory() as folder:
        common = {
            "model": str(arguments.model),
            "out": str(Path(folder) / "run"),
            "seed": seed,
            "data.train": str(arguments.data),
            "data.valid": str(arguments.valid),
            "train.steps": arguments.steps,
            "valid.every": arguments.steps,
            "checkpoint.every": arguments.steps,
        }
        finetune(Config().with_values(common | dict(values)), on_event=follow)
    return Curve(losses, statistics.mean(losses[-TAIL:]), valid[-1])


def compare(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train both sides of a pair, and the plain one with other seeds; print and return what they came to."""
    plain, fast = PAIRS[name]
    first = train(plain, arguments, 0)
    others = [train(plain, arguments, seed) for seed in range(1, arguments.seeds)]
    other = train(fast, arguments, 0)
    noise = max([abs(curve.valid - first.valid) for curve in others] + [LEAST_NOISE * first.valid])
    difference = abs(other.valid - first.valid)
    apart = statistics.mean(abs(a - b) for a, b in zip(first.losses, other.losses, strict=True))
    print(
        f"{name}: held-out loss {first.valid:.4f} plain, {other.valid:.4f} fast: {difference:.4f} apart, "
        f"noise {noise:.4f}; last {TAIL} steps {first.end:.4f} and {other.end:.4f}; steps {apart:.4f} apart on average"
    )
    return {
        "plain": asdict(first),
        "fast": asdict(other),
        "other_seeds": [asdict(curve) for curve in others],
        "difference": difference,
        "noise": noise,
        "within": difference <= noise,
    }


def main() -> None:
    """Compare the pairs that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--pairs", default=",".join(PAIRS), help="separated by commas")
    parser.add_argument("--model", type=Path, default=starter_folder())
    parser.add_argument("--data", type=Path, default=tickets_folder() / "train.jsonl")
    parser.add_argument("--valid", type=Path, default=tickets_folder() / "valid.jsonl")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the plain side, which make the noise")
    parser.add_argument("--out", type=Path, default=Path("gpu_curves.json"))
    parser.add_argument("--simulate-fp8", action="store_true", help="on a device without 8-bit units, as its twin does")
    arguments = parser.parse_args()
    if arguments.simulate_fp8:
        vars(ready)["hold_in_fp8"] = partial(hold_in_fp8, simulate=True)
    if unknown := set(arguments.pairs.split(",")) - set(PAIRS):
        parser.error(f"--pairs: {', '.join(sorted(unknown))} unknown; there are {', '.join(PAIRS)}")
    found = {}
    for name in arguments.pairs.split(","):
        found[name] = compare(name, arguments)
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.exit(not all(pair["within"] for pair in found.values()))


if __name__ == "__main__":
    main()
