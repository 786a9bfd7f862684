"""Whether the guards speak in time in runs that are sick, and keep still in runs that are not; and what they cost.

Every run is a process of its own: the starter model on made-up rows, spoiled in one way or in none. A run's damage is
measured without the guards; an alarm is in time when it comes before half of that damage is done.
Run: python benchmarks/guards.py --seeds 5 --workers 12 --device cuda --out guards.json --write docs/calibration.md
Ends with code 1 when an alarm is in time in under 95 % of its runs, or one of level error speaks in a clean run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from attune import __version__  # noqa: E402 - found from the repository's root
from attune.bundled import starter_folder  # noqa: E402
from benchmarks.gpu import measure, parse_value  # noqa: E402
from benchmarks.gpu_table import write_into  # noqa: E402
from benchmarks.guard_cases import CASES, CLEAN, SICK  # noqa: E402
from benchmarks.guard_table import broken, tables  # noqa: E402

INTRO = ("# Calibration of the guards", "")
MADE = ("chat", "scrambled")  # models that are made before the runs
COST_CASES = "tickets,letters-lora"

Result = dict[str, Any]


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--kinds", default=",".join(CASES), help="separated by commas; sick and clean: all of those")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each run")
    parser.add_argument("--device", default="cpu", choices=("cuda", "cpu"))
    parser.add_argument("--text", type=Path, help="a file of rows from which more clean runs are made")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of every run")
    parser.add_argument("--keep", type=Path, help="folder in which the records of every run are kept")
    parser.add_argument("--limit", type=int, default=900, help="seconds that one run may take")
    parser.add_argument("--cost", action="store_true", help="measure what the guards cost, in place of the alarms")
    parser.add_argument("--repeats", type=int, default=3, help="pairs of runs for --cost")
    parser.add_argument("--out", type=Path, default=Path("guards.json"), help="all figures; earlier ones are kept")
    parser.add_argument("--write", type=Path, help="page that gets the tables")
    arguments = parser.parse_args()
    groups = {"sick": SICK, "clean": CLEAN}
    names = [name for part in arguments.kinds.split(",") if part for name in _group(part, groups)]
    if unknown := set(names) - set(CASES):
        parser.error(f"--kinds: {', '.join(sorted(unknown))} unknown; there are {', '.join((*groups, *CASES))}")
    arguments.cases = [CASES[name] for name in names if arguments.text or not CASES[name].needs_text]
    arguments.settings = {key: parse_value(value) for key, value in (one.split("=", 1) for one in arguments.set)}
    return arguments


def _group(part: str, groups: dict[str, Any]) -> list[str]:
    return [case.name for case in groups[part]] if part in groups else [part]


def open_report(arguments: argparse.Namespace) -> Result:
    """Return what is in --out from earlier calls, so that several fill one table; else an empty report."""
    report: Result = {"runs": {}, "cost": {}}
    if arguments.out.exists():
        report = json.loads(arguments.out.read_text(encoding="utf-8"))
    report["versions"] = {"attune": __version__, "torch": version("torch"), "python": platform.python_version()}
    report["device"] = _device_name(arguments.device)
    return report


def _device_name(device: str) -> str:
    if device == "cpu":
        return f"a CPU ({platform.machine()})"
    import torch

    return f"one {torch.cuda.get_device_name()}"


def make_models(arguments: argparse.Namespace, folder: Path) -> dict[str, str]:
    """Make the models that some runs begin with and return all by name.

    Raises: SystemExit when one cannot be made.
    """
    models = {"starter": str(starter_folder())}
    for name in MADE:
        if not any(case.model == name for case in arguments.cases):
            continue
        models[name] = str(folder / name)
        job = {"kind": name, "to": models[name], "device": arguments.device}
        if why := measure("benchmarks.guard_runs", job, path=None, limit=arguments.limit).get("failed"):
            raise SystemExit(f"the model {name} could not be made: {why}")
    return models


def run_all(arguments: argparse.Namespace, report: Result, common: Result) -> None:
    """Run every case with every seed, some at a time; the report follows on disk as they end."""
    jobs = {
        f"{case.name} {seed}": {"kind": "case", "case": case.name, "seed": seed, **common}
        for seed in range(arguments.seeds)
        for case in arguments.cases
    }
    began = time.perf_counter()
    with ThreadPoolExecutor(arguments.workers) as pool:
        running = {
            pool.submit(measure, "benchmarks.guard_runs", job, path=None, limit=arguments.limit): key
            for key, job in jobs.items()
        }
        for count, future in enumerate(as_completed(running), 1):
            key, result = running[future], future.result()
            report["runs"][key] = result | {"device": report["device"]}
            arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            said = result.get("failed") or "; ".join(
                f"{alarm['name']} {alarm['severity']} at {alarm['step']}" for alarm in result["alarms"]
            )
            took = f"{count} of {len(jobs)}, {time.perf_counter() - began:.0f} s"
            print(f"{took}: {key}: {said or 'no alarm'}", file=sys.stderr)


def time_all(arguments: argparse.Namespace, report: Result, common: Result) -> None:
    """Measure runs with and without guards by turns, one at a time; a ratio is that of two neighbours."""
    names = [case.name for case in arguments.cases if case.is_clean and case.name in COST_CASES.split(",")]
    for name in names:
        pairs = []
        for repeat in range(arguments.repeats):
            job = {"kind": "cost", "case": name, "seed": repeat, **common}
            order = ("off", "on") if repeat % 2 == 0 else ("on", "off")
            pair = {
                side: measure(
                    "benchmarks.guard_runs", {**job, "guards": side == "on"}, path=None, limit=arguments.limit
                )
                for side in order
            }
            if why := next((result["failed"] for result in pair.values() if "failed" in result), ""):
                report["runs"][f"cost of {name} {repeat}"] = {"failed": why}
                continue
            pairs.append(pair)
            more = pair["on"]["seconds"] / pair["off"]["seconds"] - 1
            print(f"{name}: {pair['off']['seconds']:.1f} s without guards, {more:+.1%} with", file=sys.stderr)
        if pairs:
            report["cost"][name] = pairs
        arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    """Run, keep every figure, print the tables; return 1 where a promise is broken."""
    arguments = parse_arguments()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    report = open_report(arguments)
    with tempfile.TemporaryDirectory() as folder:
        common = {
            "device": arguments.device,
            "models": make_models(arguments, Path(folder)),
            "text": str(arguments.text.resolve()) if arguments.text else None,
            "keep": str(arguments.keep.resolve()) if arguments.keep else None,
            "set": arguments.settings,
        }
        (time_all if arguments.cost else run_all)(arguments, report, common)
    print(tables(report))
    if arguments.write:
        write_into(arguments.write, tables(report), INTRO, program="guards.py")
    for line in (found := broken(report)):
        print(f"not kept: {line}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
