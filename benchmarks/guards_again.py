"""Runs that `guards.py --keep` kept, judged again by the guards as they are now: nothing is trained.

Guards are functions of what a run recorded, so a threshold can be tried on every kept run in a minute. Alarms before
the first step stay as they were, and so do runs of models that are made for the purpose: what they began with is gone.
Run: python benchmarks/guards_again.py KEPT --out guards.json --text ROWS --write docs/calibration.md
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from attune.bundled import starter_folder  # noqa: E402 - found from the repository's root
from attune.evals.guards.history import History  # noqa: E402
from attune.evals.guards.raised import Raised  # noqa: E402
from attune.evals.guards.steps import after_step  # noqa: E402
from attune.evals.guards.validations import after_validation  # noqa: E402
from attune.evals.probe_plan import plan_probes  # noqa: E402
from attune.model.folder import model_length  # noqa: E402
from attune.record import RunFolder, plain  # noqa: E402
from attune.train.begin import facts_of  # noqa: E402
from attune.train.defaults import stream_of  # noqa: E402
from attune.train.run import gather  # noqa: E402
from attune.types import Alarm  # noqa: E402
from benchmarks.gpu_table import write_into  # noqa: E402
from benchmarks.guard_cases import CASES, Draw  # noqa: E402
from benchmarks.guard_rows import is_noise  # noqa: E402
from benchmarks.guard_runs import settings_of  # noqa: E402
from benchmarks.guard_table import tables  # noqa: E402
from benchmarks.guards import INTRO  # noqa: E402

NAMED = ("spike", "not-finite")  # alarms that name the rows of their step


def judge_again(kept: Path, result: Mapping[str, Any], text: Path | None) -> dict[str, Any]:
    """Return the result of a run with the alarms that its records give now."""
    case, seed = CASES[result["case"]], result["seed"]
    if case.model != "starter":
        return dict(result)
    rows = case.rows(Draw(random.Random(f"{case.name} {seed}"), text))
    with tempfile.TemporaryDirectory() as folder:
        job = {"models": {"starter": str(starter_folder())}, "seed": seed, "device": "cpu"}
        inputs = gather(settings_of(case, rows, Path(folder), job), lambda _kind, _payload: None)
        config, prepared = inputs.config, inputs.prepared
        context = model_length(inputs.base)
        plan = plan_probes(config, prepared, context=context)
        vocabulary = json.loads((inputs.base / "config.json").read_text(encoding="utf-8"))["vocab_size"]
        facts = facts_of(config, prepared, vocabulary=vocabulary, plan=plan)
        stream = stream_of(prepared.train, config)
    run = RunFolder(kept)
    before = [line for line in run.read_lines("alarms.jsonl") if line["step"] == 0]
    raised, found = Raised(before), list(before)
    metrics, losses = run.read_lines("metrics.jsonl"), run.read_lines("rows.jsonl")
    culprits, named = {str(place) for place in prepared.train.places if is_noise(rows.train[place.line - 1])}, set()
    for number, line in enumerate(metrics):
        history = History.of_lines(facts, metrics[: number + 1], losses)
        alarms: list[Alarm] = []
        if "probe_loss" in line:
            alarms = [alarm for alarm in after_validation(history) if alarm.step]
        elif "val_loss" not in line:
            alarms = after_step(history)
        for alarm in raised.admit(alarms):
            places = [str(prepared.train.places[int(row)]) for row in stream.rows(alarm.step)]
            named |= culprits & set(places if alarm.name in NAMED else ())
            found.append(plain(asdict(replace(alarm, rows=()))))
    return {**result, "alarms": found, "named": len(named)}


def main() -> None:
    """Judge every kept run again, and print or write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("kept", type=Path, nargs="+", help="folders that --keep filled")
    parser.add_argument("--out", type=Path, default=Path("guards.json"), help="the figures of those runs; changed")
    parser.add_argument("--text", type=Path, help="as the runs were given")
    parser.add_argument("--write", type=Path, help="page that gets the tables")
    arguments = parser.parse_args()
    report = json.loads(arguments.out.read_text(encoding="utf-8"))
    for key, result in report["runs"].items():
        name = f"{result.get('case')}-{result.get('seed')}"
        kept = next((folder / name for folder in arguments.kept if (folder / name).is_dir()), None)
        if kept is not None and "failed" not in result:
            report["runs"][key] = judge_again(kept, result, arguments.text)
            print(key, file=sys.stderr)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(tables(report))
    if arguments.write:
        write_into(arguments.write, tables(report), INTRO, program="guards.py")


if __name__ == "__main__":
    main()
