"""What fine-tuning costs in general text, and what keeps it: ways of training compared at equal task score.

The starter model learns the bundled tickets in every way and with every seed, validated every few steps. For each run
the first point is taken at which it reaches the level of the task score that all runs reach, between two validations
in a straight line; there the loss on general text, which no run saw, is compared with the base model's.
Run: python benchmarks/forgetting.py --text wikitext2_test_raw.txt --device cuda --workers 6 --write docs/calibration.md
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.gpu import measure, parse_value  # noqa: E402 - found from the repository's root
from benchmarks.gpu_table import write_into  # noqa: E402
from benchmarks.guard_forget import WAYS  # noqa: E402

REFERENCE, JUDGED = "plain", "self"
WANTED_CUT = 0.5  # of the rise that plain fine-tuning has
INTRO = ("# Calibration of the guards", "")
METRICS = (
    "val_exact_match", "val_accuracy", "val_loss", "field_accuracy", "exact_match", "json_valid",
)  # fmt: skip

Point = Mapping[str, float]
Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reached:
    """Where a run reached the level: the step, the rise of the general loss over the base, and KL to the base."""

    step: float
    rise: float
    kl: float


def reach(points: Sequence[Point], level: float) -> Reached | None:
    """Return where a run first reaches a task score, between two validations in a straight line; None: never."""
    start, before = points[0]["general"], points[0]
    for point in points:
        if point["score"] >= level:
            span = point["score"] - before["score"]
            part = (level - before["score"]) / span if span > 0 else 1.0
            step, general, kl = (before[key] + part * (point[key] - before[key]) for key in ("step", "general", "kl"))
            return Reached(step, general - start, kl)
        before = point
    return None


def common_level(runs: Sequence[Result]) -> float:
    """Return the highest task score that every run reaches."""
    return min(max(float(point["score"]) for point in run["points"]) for run in runs)


def table(report: Result, level: float | None = None) -> str:
    """Return what was measured in Markdown, with what self-replay saves."""
    runs = [run for run in report["runs"].values() if "points" in run]
    if not runs:
        return "\n".join(["Nothing was measured.", *_failures(report)])
    level = common_level(runs) if level is None else level
    reached = {(run["way"], run["seed"]): reach(run["points"], level) for run in runs}
    lines = [
        f"Task score: {report['metric']} of {'-' if level < 0 else ''}{abs(level):.3f}, on {report['device']}.",
        "",
        "| way | runs | reached | at step | rise of general loss, nats | KL to the base | of plain's rise | s a step |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for way, (words, _settings) in WAYS.items():
        own = [run for run in runs if run["way"] == way]
        found = [one for run in own if (one := reached[way, run["seed"]]) is not None]
        if not own:
            continue
        cells = [f"{way}: {words}", str(len(own)), str(len(found))]
        cells += [_mean([getattr(one, key) for one in found], form) for key, form in _FORMS.items()]
        cells += [_mean(shares_of(reached, way), ".0%")]
        cells += [f"{statistics.mean(run['seconds'] / run['points'][-1]['step'] for run in own):.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", verdict(reached), *_failures(report)])


_FORMS = {"step": ".0f", "rise": "+.3f", "kl": ".3f"}


def _mean(values: Sequence[float], form: str) -> str:
    """Return the mean of some values, and between what they lie."""
    if not values:
        return "-"
    return f"{statistics.mean(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def shares_of(reached: Mapping[tuple[str, int], Reached | None], way: str) -> list[float]:
    """Return a way's rise as a share of that of plain fine-tuning, seed by seed."""
    found = []
    for (name, seed), one in reached.items():
        plain = reached.get((REFERENCE, seed))
        if name == way and one is not None and plain is not None and plain.rise > 0:
            found.append(one.rise / plain.rise)
    return found


def verdict(reached: Mapping[tuple[str, int], Reached | None]) -> str:
    """Say whether self-replay cuts the rise by as much as is wanted."""
    shares = shares_of(reached, JUDGED)
    if not shares:
        return "Self-replay and plain fine-tuning did not both reach the level: nothing can be said."
    cut = 1 - statistics.mean(shares)
    word = "at least" if cut >= WANTED_CUT else "less than"
    return (
        f"Self-replay cuts the rise of general loss by {cut:.0%} at equal task score ({len(shares)} seeds, "
        f"{1 - max(shares):.0%} to {1 - min(shares):.0%}): {word} half."
    )


def _failures(report: Result) -> list[str]:
    lines = [f"- {key}: {run['failed']}" for key, run in report["runs"].items() if "failed" in run]
    return ["", "Did not run:", "", *lines] if lines else []


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--text", type=Path, required=True, help="general text: half is measured, half is replayed")
    parser.add_argument("--ways", default=",".join(WAYS), help="separated by commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=480)
    parser.add_argument("--every", type=int, default=40, help="steps between validations")
    parser.add_argument("--metric", default="field_accuracy", choices=METRICS, help="the task score")
    parser.add_argument("--level", type=float, help="the task score to compare at; else the highest that all reach")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each run")
    parser.add_argument("--device", default="cpu", choices=("cuda", "cpu"))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of every run")
    parser.add_argument("--limit", type=int, default=1200, help="seconds that one run may take")
    parser.add_argument("--out", type=Path, default=Path("forgetting.json"), help="all figures; earlier ones are kept")
    parser.add_argument("--write", type=Path, help="page that gets the table")
    arguments = parser.parse_args()
    if unknown := set(arguments.ways.split(",")) - set(WAYS):
        parser.error(f"--ways: {', '.join(sorted(unknown))} unknown; there are {', '.join(WAYS)}")
    return arguments


def open_report(arguments: argparse.Namespace) -> Result:
    """Return what is in --out from the same plan, so that several calls fill one table; else an empty report."""
    plan = {name: getattr(arguments, name) for name in ("metric", "steps", "every", "device")}
    if arguments.out.exists():
        report: Result = json.loads(arguments.out.read_text(encoding="utf-8"))
        if {name: report[name] for name in plan} != plan:
            raise SystemExit(f"{arguments.out} was measured with another plan; name another file")
        return report
    return {**plan, "runs": {}}


def main() -> None:
    """Run every way with every seed, keep every figure, print the table."""
    arguments = parse_arguments()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    report, began = open_report(arguments), time.perf_counter()
    common = {name: report[name] for name in ("metric", "steps", "every", "device")}
    common |= {
        "text": str(arguments.text.resolve()),
        "set": {key: parse_value(value) for key, value in (one.split("=", 1) for one in arguments.set)},
    }
    ways = arguments.ways.split(",")
    jobs = {f"{way} {seed}": {"way": way, "seed": seed, **common} for seed in range(arguments.seeds) for way in ways}
    with ThreadPoolExecutor(arguments.workers) as pool:
        running = {
            pool.submit(measure, "benchmarks.guard_forget", job, path=None, limit=arguments.limit): key
            for key, job in jobs.items()
        }
        for count, future in enumerate(as_completed(running), 1):
            key, result = running[future], future.result()
            report["runs"][key] = result
            arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            last = result.get("failed") or f"score {result['points'][-1]['score']:.3f}, {result['seconds']:.0f} s"
            print(f"{count} of {len(jobs)}, {time.perf_counter() - began:.0f} s: {key}: {last}", file=sys.stderr)
    print(text := table(report, arguments.level))
    if arguments.write:
        write_into(arguments.write, text, INTRO, program="forgetting.py")


if __name__ == "__main__":
    main()
