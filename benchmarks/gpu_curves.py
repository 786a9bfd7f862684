"""Whether fast ways of training learn as the plain ones do, on real text: loss curves of the same rows, side by side.

Both sides of a pair are trained with the same seeds; the noise is how far those of the plain side lie apart.
Ends with code 1 when the means of a pair differ by more.
Run: python benchmarks/gpu_curves.py --pairs fp8,kernels,moments,cpu --steps 200 --seeds 3
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
            "guards.enabled": False,  # they change no weight, and cost time
        }
        finetune(Config().with_values(common | dict(values)), on_event=follow)
    return Curve(losses, statistics.mean(losses[-TAIL:]), valid[-1])


def compare(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train both sides of a pair with every seed; print and return what they came to."""
    sides = [[train(side, arguments, seed) for seed in range(arguments.seeds)] for side in PAIRS[name]]
    plain, fast = ([curve.valid for curve in side] for side in sides)
    noise = max(max(plain) - min(plain), LEAST_NOISE * statistics.mean(plain))
    difference = abs(statistics.mean(fast) - statistics.mean(plain))
    apart = statistics.mean(
        abs(a - b) for one, two in zip(*sides, strict=True) for a, b in zip(one.losses, two.losses, strict=True)
    )
    ends = [statistics.mean(curve.end for curve in side) for side in sides]
    print(
        f"{name}: held-out loss {statistics.mean(plain):.4f} plain, {statistics.mean(fast):.4f} fast: "
        f"{difference:.4f} apart, noise {noise:.4f} ({arguments.seeds} seeds: {_shown(plain)} and {_shown(fast)}); "
        f"last {TAIL} steps {ends[0]:.4f} and {ends[1]:.4f}; steps {apart:.4f} apart on average",
        flush=True,
    )
    return {
        "plain": [asdict(curve) for curve in sides[0]],
        "fast": [asdict(curve) for curve in sides[1]],
        "difference": difference,
        "noise": noise,
        "within": difference <= noise,
    }


def _shown(values: list[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


def main() -> None:
    """Compare the pairs that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--pairs", default=",".join(PAIRS), help="separated by commas")
    parser.add_argument("--model", type=Path, default=starter_folder())
    parser.add_argument("--data", type=Path, default=tickets_folder() / "train.jsonl")
    parser.add_argument("--valid", type=Path, default=tickets_folder() / "valid.jsonl")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3, help="with which each side is trained")
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
