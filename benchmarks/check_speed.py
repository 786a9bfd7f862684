"""How long `attune check` takes and how much memory: whole processes over ever more made-up rows; whether it is linear.

A row is a question and an answer of about 150 words (1 KB); 1 % are exact copies of earlier rows, 2 % near copies.
Run: python benchmarks/check_speed.py --rows 10000 100000 1000000
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

EXACT, NEAR = 0.01, 0.02
CHANGED_WORDS = 0.03  # of a near copy's answer
KEPT_ROWS = 20_000  # a copy is of one of so many rows before it
VOCABULARY = 60_000
ANSWER_WORDS = (90, 170)
QUESTION_WORDS = (12, 28)
MOST_CPU_S = {10_000: 10.0, 1_000_000: 300.0}  # what is promised
MOST_GB = 4.0
LINEAR = 1.5  # a row of a large file may cost so much more than a row of a file a tenth as long
SYLLABLES = [first + second for first in "bdfghklmnprstvwz" for second in "aeiou"]
ENGLISH = (
    "the of and to in is that it for was on are as with they at be this have from or one had by but not what all were "
    "we when your can said there use an each which she do how their if will up other about out many then them these so "
    "some her would make like him into time has look two more write go see number no way could people my than first "
    "water been call who oil its now find long down day did get come made may part"
)


@dataclass(frozen=True)
class Cost:
    """What one run took."""

    rows: int
    gb: float  # of the file
    cpu_s: float
    wall_s: float
    peak_gb: float
    findings: dict[str, int]  # rows by the rule's name


def words(dice: random.Random) -> list[str]:
    """A vocabulary: common English words and invented ones."""
    made = {"".join(dice.choices(SYLLABLES, k=dice.randint(2, 4))) for _ in range(VOCABULARY)}
    rare = sorted(made)
    dice.shuffle(rare)
    return [*ENGLISH.split(), *rare]


def text(dice: random.Random, pool: list[str], weights: list[float], count: int) -> list[str]:
    """So many words in sentences, common ones more often."""
    drawn = dice.choices(pool, cum_weights=weights, k=count)
    start = 0
    while start < count:
        end = min(count, start + dice.randint(7, 16))
        drawn[start] = drawn[start].capitalize()
        drawn[end - 1] += "."
        start = end
    return drawn


def make_rows(count: int, seed: int = 1) -> Iterator[bytes]:
    """Yield lines of JSONL: questions with answers, exact copies and near copies of earlier rows among them."""
    dice = random.Random(seed)
    pool = words(dice)
    total, weights = 0.0, []
    for rank in range(len(pool)):  # Zipf's law: nearly half of the words are English ones, as in prose
        total += 1 / (rank + 1)
        weights.append(total)
    kept: deque[tuple[str, list[str]]] = deque(maxlen=KEPT_ROWS)
    for _ in range(count):
        chance = dice.random()
        if kept and chance < EXACT + NEAR:
            question, answer = kept[dice.randrange(len(kept))]
            if chance >= EXACT:
                answer = list(answer)
                for at in dice.sample(range(len(answer)), max(1, round(CHANGED_WORDS * len(answer)))):
                    answer[at] = dice.choice(pool) + "." * answer[at].endswith(".")
        else:
            question = " ".join(text(dice, pool, weights, dice.randint(*QUESTION_WORDS)))[:-1] + "?"
            answer = text(dice, pool, weights, dice.randint(*ANSWER_WORDS))
            if dice.random() < KEPT_ROWS / count:
                kept.append((question, answer))
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": " ".join(answer)}]
        yield json.dumps({"messages": turns}).encode() + b"\n"


def write(path: Path, count: int) -> float:
    """Write so many rows; return the size in GB."""
    with path.open("wb") as file:
        file.writelines(make_rows(count))
    return path.stat().st_size / 1e9


def measure(path: Path, rows: int, gb: float) -> Cost:
    """Check the file in a process of its own and return what that took."""
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "attune", "check", str(path), "--json"]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=one_thread) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 3):  # 3: it found errors in the data
        raise SystemExit(f"attune check ended with exit code {process.returncode}")
    found = {finding["name"]: finding["rows"] for finding in json.loads(output)["findings"]}
    return Cost(rows, gb, used.ru_utime + used.ru_stime, wall, used.ru_maxrss / 1e6, found)


def faults(costs: list[Cost]) -> list[str]:
    """What breaks a promise: too slow, too large, or more than linear."""
    found = []
    for cost in costs:
        limit = MOST_CPU_S.get(cost.rows)
        if limit and cost.cpu_s > limit:
            found.append(f"{cost.rows:,} rows took {cost.cpu_s:.0f} CPU-s, promised are {limit:.0f}")
        if cost.peak_gb > MOST_GB:
            found.append(f"{cost.rows:,} rows took {cost.peak_gb:.1f} GB, promised are {MOST_GB:.0f}")
    for few, many in zip(costs, costs[1:]):  # noqa: B905, RUF007 - one is shorter
        ratio = (many.cpu_s / many.rows) / (few.cpu_s / few.rows)
        if ratio > LINEAR:
            found.append(f"a row of {many.rows:,} costs {ratio:.2f} times a row of {few.rows:,}")
    return found


def main() -> None:
    """Measure, print a table, and end with code 1 where a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000], help="sizes to measure, ascending")
    parser.add_argument("--out", type=Path, help="write the figures as JSON to this file")
    parser.add_argument("--folder", type=Path, help="keep the generated files in this folder")
    chosen = parser.parse_args()
    costs = []
    print(f"{'rows':>10} {'GB':>6} {'CPU-s':>8} {'us/row':>8} {'wall s':>8} {'peak GB':>8}  duplicates")
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for rows in sorted(chosen.rows):
            path = folder / f"rows_{rows}.jsonl"
            cost = measure(path, rows, write(path, rows))
            costs.append(cost)
            copies = f"{cost.findings.get('duplicate', 0):,} exact, {cost.findings.get('near-duplicate', 0):,} near"
            each = cost.cpu_s / rows * 1e6
            print(
                f"{rows:10,} {cost.gb:6.2f} {cost.cpu_s:8.1f} {each:8.0f} {cost.wall_s:8.1f} {cost.peak_gb:8.2f}  "
                + copies,
                flush=True,
            )
            if not chosen.folder:
                path.unlink()
    if chosen.out:
        chosen.out.write_text(json.dumps([asdict(cost) for cost in costs], indent=1) + "\n", encoding="utf-8")
    broken = faults(costs)
    print("\n".join(broken) or "All promises kept.")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
