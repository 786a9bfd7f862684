"""attune beside its peers on one GPU: tokens per second, memory, time to the first step, how long the GPU waits.

Every measurement is a fresh process on the same random rows: 14 steps, of which the last 7 count (medians of CUDA
events), then 3 under the profiler, of which the last 2 are looked at. Peers that are not installed are skipped and
said.
Run: python benchmarks/gpu.py --cases 1b-full,8b-lora --peers trl,unsloth --out gpu.json --write docs/performance.md
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from threading import Lock
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.gpu_cases import CASES, Case  # noqa: E402 - found from the repository's root
from benchmarks.gpu_table import kernels, speeds_of, tables, write_into  # noqa: E402

PEERS = {"trl": "trl", "unsloth": "unsloth"}  # and the package that each needs
NAMES = ("torch", "triton", "transformers", "peft", "flash-attn-4")  # whose versions decide the speed
INTRO = ("# Performance", "", "Made by `python benchmarks/gpu.py`; benchmarks/README.md says how it measures.")

Result = dict[str, Any]
_WRITING = Lock()  # cards are measured side by side


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--cases", default=",".join(CASES), help="separated by commas")
    parser.add_argument("--peers", default=",".join(PEERS), help="separated by commas; none: attune alone")
    parser.add_argument("--only-peers", action="store_true", help="leave attune out (its results may be in --out)")
    parser.add_argument("--path", nargs="*", default=[], metavar="PEER=FOLDERS", help="the PYTHONPATH of a peer")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of attune in every case")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="a model of two layers, to try the program itself")
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--measured", type=int, default=7, help="how many of them count: the last")
    parser.add_argument("--profiled", type=int, default=3, help="further steps, under the profiler")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cards", type=int, default=1, help="GPUs of this host to use side by side, a case on each")
    parser.add_argument("--limit", type=int, default=600, help="seconds that one measurement may take")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="all figures; earlier ones in it are kept")
    parser.add_argument("--write", type=Path, help="page that gets the tables")
    arguments = parser.parse_args()
    if unknown := set(arguments.cases.split(",")) - set(CASES):
        parser.error(f"--cases: {', '.join(sorted(unknown))} unknown; there are {', '.join(CASES)}")
    return arguments


def paths_of(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the PYTHONPATH of each peer that has one of its own: named, or in TRL_PATH and UNSLOTH_PATH."""
    found = {peer: os.environ[f"{peer.upper()}_PATH"] for peer in PEERS if os.environ.get(f"{peer.upper()}_PATH")}
    return found | dict(one.split("=", 1) for one in arguments.path)


def measure(module: str, job: Result, *, path: str | None, limit: int) -> Result:
    """Run one measurement in a process of its own and return its result, or why there is none."""
    environment = dict(os.environ)
    if job["device"] == "cuda":
        visible = environment.get("CUDA_VISIBLE_DEVICES", "")
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[job["card"]] if visible else str(job["card"])
    own = environment.get("PYTHONPATH", "") if path is None else path
    environment["PYTHONPATH"] = os.pathsep.join(part for part in (own, str(ROOT / "src"), str(ROOT)) if part)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        description = Path(folder) / "job.json"
        description.write_text(json.dumps(job), encoding="utf-8")
        command = [sys.executable, "-m", module, str(description)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, env=environment, cwd=folder, timeout=limit, check=False
            )
        except subprocess.TimeoutExpired:
            return {"failed": f"took longer than {limit} s"}
    took = time.perf_counter() - began
    if done.returncode != 0:
        print(done.stderr[-2500:], file=sys.stderr)
        words = [line for line in done.stderr.splitlines() if line.strip()]
        return {"failed": words[-1][:300] if words else f"exit code {done.returncode}"}
    result: Result = json.loads(done.stdout.strip().splitlines()[-1])
    return result | {"process_s": took}


def is_installed(peer: str, path: str | None) -> bool:
    """Whether a peer's package can be found, in its own folders or here."""
    if path is None:
        return importlib.util.find_spec(PEERS[peer]) is not None
    return any((Path(folder) / PEERS[peer]).is_dir() for folder in path.split(os.pathsep))


def versions(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the versions of what decides the speed; absent packages are left out."""
    found = {}
    for name in NAMES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    for peer, path in paths_of(arguments).items():
        for info in importlib.metadata.distributions(name=PEERS[peer], path=path.split(os.pathsep)):
            found[peer] = info.version
    return found


def parse_value(text: str) -> Any:
    """Return a setting's value as JSON reads it, else as text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def open_report(arguments: argparse.Namespace) -> Result:
    """Return what is in --out from the same plan, so that several calls fill one table; else an empty report."""
    plan = {name: getattr(arguments, name) for name in ("device", "tiny", "steps", "measured", "profiled", "seed")}
    if arguments.out.exists():
        report: Result = json.loads(arguments.out.read_text(encoding="utf-8"))
        if report["plan"] == plan:
            return report
        raise SystemExit(f"{arguments.out} was measured with other steps or another device; name another file")
    return {"plan": plan, "versions": {}, "multiply": {}, "cases": {}}


def run_case(case: Case, card: int, report: Result, arguments: argparse.Namespace) -> None:
    """Measure a case on every side, on one card; the report follows."""
    plan = report["plan"] | {"kind": "train", "card": card}
    settings = dict(one.split("=", 1) for one in arguments.set)
    job = plan | {"case": case.name, "set": {key: parse_value(value) for key, value in settings.items()}}
    with _WRITING:
        sides = report["cases"].setdefault(case.name, {"peers": {}}) | {"card": card}
        report["cases"][case.name] = sides
    if not arguments.only_peers:
        found = measure("benchmarks.gpu_attune", job, path=None, limit=arguments.limit)
        keep(report, sides, "attune", found, file=arguments.out)
        tell(case, "attune", found, report)
    paths = paths_of(arguments)
    for peer in (name for name in arguments.peers.split(",") if name in case.peers):
        if not is_installed(peer, paths.get(peer)):
            print(f"{case.name}: {peer} is not installed, skipped", file=sys.stderr)
            continue
        for way in case.peers[peer]:
            module = f"benchmarks.peers.{peer}_side"
            found = measure(module, job | {"peer": peer, "way": way}, path=paths.get(peer), limit=arguments.limit)
            keep(report, sides["peers"], f"{peer}, {way}", found, file=arguments.out)
            tell(case, f"{peer}, {way}", found, report)


def keep(report: Result, sides: Result, side: str, found: Result, *, file: Path) -> None:
    """Put a result into the report, and the report into its file."""
    with _WRITING:
        sides[side] = found
        file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def tell(case: Case, side: str, result: Result, report: Result) -> None:
    """Print one line about a measurement as soon as it is there."""
    if "failed" in result:
        print(f"{case.name}: {side}: {result['failed']}", file=sys.stderr)
        return
    speed = next(speed for speed in speeds_of(report, case) if speed.name == side)
    idle = "" if speed.idle is None else f", GPU idle {speed.idle:.1%}"
    print(
        f"{case.name}: {side}: {speed.tokens_per_s:,.0f} tok/s, {speed.tflops:.0f} TFLOP/s, {speed.gib:.1f} GiB, first "
        f"step {speed.first_step_s:.1f} s{idle}, process {result['process_s']:.0f} s; {'; '.join(result['how'])}",
        file=sys.stderr,
    )


def run_group(group: list[Case], cards: Queue[int], report: Result, arguments: argparse.Namespace) -> None:
    """Measure cases that share their peers on a card that is free."""
    card = cards.get()
    try:
        if str(card) not in report["multiply"]:
            job = report["plan"] | {"kind": "multiply", "card": card}
            found = measure("benchmarks.gpu_attune", job, path=None, limit=arguments.limit)
            if "failed" in found:
                raise SystemExit(f"card {card} cannot multiply: {found['failed']}")
            keep(report, report["multiply"], str(card), found, file=arguments.out)
        for case in group:
            run_case(case, card, report, arguments)
    finally:
        cards.put(card)


def measure_all(report: Result, arguments: argparse.Namespace) -> None:
    """Measure all cases that are asked for on the cards there are; the report follows."""
    report["versions"] |= versions(arguments)
    cards: Queue[int] = Queue()
    for card in range(arguments.cards):
        cards.put(card)
    groups: dict[str, list[Case]] = {}
    for case in (CASES[name] for name in arguments.cases.split(",")):
        groups.setdefault(case.as_in or case.name, []).append(case)
    with ThreadPoolExecutor(arguments.cards) as pool:
        for done in [pool.submit(run_group, group, cards, report, arguments) for group in groups.values()]:
            done.result()


def main() -> None:
    """Measure, keep every figure, print the tables."""
    arguments = parse_arguments()
    report = open_report(arguments)
    if not arguments.only_peers or arguments.peers != "none":  # else only the page is written anew
        measure_all(report, arguments)
    print(kernels(report), file=sys.stderr)
    print(tables(report))
    if arguments.write:
        write_into(arguments.write, tables(report), INTRO)


if __name__ == "__main__":
    main()
