"""attune beside TRL on a CPU: learned tokens per second in training, rows per second in preparation, as ratios.

    python benchmarks/cpu_vs_trl.py --trl-env ../trl-env

TRL lives in a virtual environment of its own (made here if absent). Both sides get the same rows, the same model, the
same learned tokens (checked), 16 rows a step, float32 and the same threads; they take turns, each measurement in a
fresh process. The first steps of a training are not counted. A ratio is that of two neighbouring measurements; the
table shows the median over the repeats with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TRL_VERSION = "1.16.0"
TORCH_VERSION = "2.13.0"
SETTINGS = ("padded", "packed", "grouped")  # of TRL; grouped = batches of like length, so not the same kind of step
BUSY = 0.5  # load over the last minute above which the machine has other work

Job = dict[str, Any]
Result = dict[str, Any]


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    named = os.environ.get("ATTUNE_TEST_DATA")
    shared = Path(named) if named else HERE.parents[1] / "shared"
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--trl-env", type=Path, required=True, help="TRL's virtual environment; made if absent")
    parser.add_argument(
        "--data", type=Path, default=shared / "data/sft/gsm8k_train.jsonl", help="question/answer JSONL"
    )
    parser.add_argument("--model", type=Path, default=shared / "models/stories260K")
    parser.add_argument("--prepare-data", type=Path, default=shared / "data/sft/t0_train_50k_clean.jsonl")
    parser.add_argument("--tokenizer", type=Path, default=shared / "models/tokenizer-gpt2", help="for preparation")
    parser.add_argument("--template", default="auto", help="attune's data.template in preparation; auto: its default")
    parser.add_argument("--rows", type=int, default=1600, help="rows to train on: the first that fit the model")
    parser.add_argument("--steps", type=int, default=33)
    parser.add_argument("--warmup", type=int, default=3, help="steps not counted")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="TRL's settings to try")
    parser.add_argument("--parts", nargs="+", choices=("train", "prepare"), default=["train", "prepare"])
    parser.add_argument("--out", type=Path, default=Path("cpu_vs_trl.json"))
    return parser.parse_args()


def open_environment(folder: Path) -> Path:
    """Return the Python of TRL's environment; make the environment and install TRL where it is absent."""
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"making {folder} with trl {TRL_VERSION}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        # torch first, so that TRL keeps the version that attune is measured with.
        for package in (f"torch=={TORCH_VERSION}", f"trl=={TRL_VERSION}"):
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", package], check=True)
    return python


def versions_in(python: Path) -> dict[str, str]:
    """The versions that decide the speed, as installed for a Python; absent packages are left out."""
    ask = (
        "import importlib.metadata as m, json; names = ('torch', 'transformers', 'tokenizers', 'trl', 'datasets');"
        "have = {d.metadata['Name'].lower(): d.version for d in m.distributions()};"
        "print(json.dumps({n: have[n] for n in names if n in have}))"
    )
    done = subprocess.run([str(python), "-c", ask], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def choose_rows(arguments: argparse.Namespace, folder: Path) -> tuple[Path, int, int]:
    """Write the first rows that fit the model as prompt and completion; return the file and its mean and top length."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
    limit = json.loads((arguments.model / "config.json").read_text())["max_position_embeddings"]
    lengths: list[int] = []
    file = folder / "rows.jsonl"
    with arguments.data.open(encoding="utf-8") as lines, file.open("w", encoding="utf-8") as chosen:
        for line in lines:
            row = json.loads(line)
            prompt, completion = row["question"] + "\n", row["answer"]
            length = len(tokenizer.encode(prompt + completion).ids) + 1  # and the end token
            if length <= limit:
                chosen.write(json.dumps({"prompt": prompt, "completion": completion}) + "\n")
                lengths.append(length)
            if len(lengths) == arguments.rows:
                break
    return file, round(statistics.mean(lengths)), max(lengths)


def measure(python: Path, script: str, job: Job) -> Result:
    """Run one measurement in a process of its own and return what it printed last."""
    threads = str(job["threads"])
    environment = os.environ | {"OMP_NUM_THREADS": threads, "RAYON_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        description = Path(folder) / "job.json"
        description.write_text(json.dumps(job), encoding="utf-8")
        command = [str(python), str(HERE / script), str(description)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{script} failed on {job}:\n{done.stderr[-3000:]}")
    result: Result = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"{script} {job['kind']} {job.get('setting', '')}: {result['seconds']:.2f} s", file=sys.stderr)
    return result


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    found = list(values)
    return {"median": statistics.median(found), "low": min(found), "high": max(found)}


def rates(results: list[Result], unit: str) -> list[float]:
    """`unit` per second of each measurement."""
    return [result[unit] / result["seconds"] for result in results]


def compare_training(arguments: argparse.Namespace, trl: Path) -> dict[str, Any]:
    """Train on both sides in turn; stop if they do not learn from the same number of tokens."""
    with tempfile.TemporaryDirectory() as folder:
        rows, mean_length, max_length = choose_rows(arguments, Path(folder))
        job = {
            "kind": "train",
            "rows": str(rows),
            "model": str(arguments.model.resolve()),
            "batch_rows": 16,
            "max_length": max_length,
            "pack_length": 16 * mean_length,
            "steps": arguments.steps,
            "warmup": arguments.warmup,
            "learning_rate": 5e-4,
            "seed": 0,
            "threads": arguments.threads,
        }
        ours: list[Result] = []
        theirs: dict[str, list[Result]] = {setting: [] for setting in arguments.settings}
        for _ in range(arguments.repeats):
            ours.append(measure(Path(sys.executable), "side_attune.py", job))
            for setting in arguments.settings:
                theirs[setting].append(measure(trl, "side_trl.py", job | {"setting": setting}))
    everyone = itertools.chain(ours, *theirs.values())
    counts = {result["learned_tokens_of_all_rows"] for result in everyone}
    if len(counts) != 1:
        raise SystemExit(f"the two sides do not learn the same tokens: {sorted(counts)}; nothing can be compared")
    summary: dict[str, Any] = {"job": job, "attune": {"runs": ours}, "trl": {}, "ratios": {}}
    for unit in ("learned_tokens", "tokens"):
        fast = rates(ours, unit)
        summary["attune"][f"{unit}_per_s"] = spread(fast)
        for setting, results in theirs.items():
            slow = rates(results, unit)
            summary["trl"].setdefault(setting, {"runs": results})[f"{unit}_per_s"] = spread(slow)
            summary["ratios"].setdefault(setting, {})[unit] = spread(a / b for a, b in zip(fast, slow, strict=True))
    return summary


def compare_preparation(arguments: argparse.Namespace, trl: Path) -> dict[str, Any]:
    """Prepare the same file on both sides in turn, and encode its text with the tokenizer alone."""
    job = {
        "rows": str(arguments.prepare_data.resolve()),
        "tokenizer": str(arguments.tokenizer.resolve()),
        "max_length": 4096,
        "template": arguments.template,
        "processes": 2,
        "threads": arguments.threads,
    }
    runs: dict[str, list[Result]] = {"attune": [], "encoding": [], "trl": []}
    for _ in range(arguments.repeats):
        runs["attune"].append(measure(Path(sys.executable), "side_attune.py", job | {"kind": "prepare"}))
        runs["encoding"].append(measure(Path(sys.executable), "side_attune.py", job | {"kind": "encode"}))
        runs["trl"].append(measure(trl, "side_trl.py", job | {"kind": "prepare"}))
    seconds = {name: [result["seconds"] for result in results] for name, results in runs.items()}
    return {
        "job": job,
        "runs": runs,
        "rows_per_s": {name: spread(rates(results, "rows_in")) for name, results in runs.items()},
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "ratios": {
            "trl": spread(a / b for a, b in zip(seconds["trl"], seconds["attune"], strict=True)),
            "encoding": spread(a / b for a, b in zip(seconds["attune"], seconds["encoding"], strict=True)),
        },
    }


def in_words(values: dict[str, float], digits: int) -> str:
    """A median with its spread, such as `2.61 (2.55-2.70)`."""
    return f"{values['median']:,.{digits}f} ({values['low']:,.{digits}f}-{values['high']:,.{digits}f})"


def print_training(summary: dict[str, Any]) -> None:
    """The table of the training measurements."""
    print("\ntraining             learned tokens/s           tokens/s, no padding       attune / TRL, learned tokens")
    sides = {"attune": summary["attune"]} | {f"TRL {name}": side for name, side in summary["trl"].items()}
    for name, side in sides.items():
        ratio = summary["ratios"].get(name.removeprefix("TRL "), {}).get("learned_tokens")
        speeds = [in_words(side[f"{unit}_per_s"], 0) for unit in ("learned_tokens", "tokens")]
        print(f"{name:20} {speeds[0]:26} {speeds[1]:26} {in_words(ratio, 2) if ratio else ''}")


def print_preparation(summary: dict[str, Any]) -> None:
    """The table of the preparation measurements."""
    print("\npreparation          rows/s                     seconds")
    for name in ("attune", "trl", "encoding"):
        words = {"encoding": "tokenizer alone", "trl": "TRL, 2 processes"}.get(name, name)
        print(f"{words:20} {in_words(summary['rows_per_s'][name], 0):26} {in_words(summary['seconds'][name], 2)}")
    print(f"TRL's time / attune's: {in_words(summary['ratios']['trl'], 2)}")
    print(f"attune's time / the tokenizer's own batch encoding: {in_words(summary['ratios']['encoding'], 2)}")


def main() -> None:
    """Measure, print the tables, write the JSON file."""
    arguments = parse_arguments()
    trl = open_environment(arguments.trl_env)
    versions = {"attune": versions_in(Path(sys.executable)), "trl": versions_in(trl)}
    if versions["trl"]["trl"] != TRL_VERSION or versions["trl"]["torch"] != versions["attune"]["torch"]:
        raise SystemExit(f"{arguments.trl_env} must hold trl {TRL_VERSION} and the torch of attune: {versions}")
    load = os.getloadavg()[0]
    if load > BUSY:
        print(f"the machine is busy (load {load:.1f}): these figures will not be worth much", file=sys.stderr)
    report: dict[str, Any] = {
        "machine": {"processor": platform.processor(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": versions,
        "load_at_start": load,
        "threads": arguments.threads,
        "repeats": arguments.repeats,
    }
    if "train" in arguments.parts:
        report["training"] = compare_training(arguments, trl)
        print_training(report["training"])
    if "prepare" in arguments.parts:
        report["preparation"] = compare_preparation(arguments, trl)
        print_preparation(report["preparation"])
    arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"\nwritten: {arguments.out}")


if __name__ == "__main__":
    main()
