"""What `attune check` finds of faults that were planted in clean rows, and how many clean rows it flags.

Prints the recall of every rule, its precision (flagged rows that hold this fault or another one), and the clean rows
that were flagged; then over-long rows with the bundled model, and real prompts of the same and of another kind. Ends
with code 1 below the promise.
Run: python benchmarks/seeded.py --each 40 --seeds 1 2 3
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from attune.bundled import starter_folder, tickets_folder  # noqa: E402
from tests.seeded.corpus import FILES, Corpus, clean_corpus, grow, grow_long  # noqa: E402 - the tests' own generator

LEAST_RECALL = 0.95
MOST_CLEAN = 0.005  # share of the clean rows that may be flagged

Lines = dict[str, set[tuple[str, int]]]  # rule -> (file, line)


@dataclass
class Score:
    """Sums over corpora."""

    planted: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    flagged: Counter[str] = field(default_factory=Counter)  # rows, by rule
    on_clean: Counter[str] = field(default_factory=Counter)  # of these, clean ones
    missed: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))  # rule -> shapes
    examples: list[str] = field(default_factory=list)
    clean: int = 0
    clean_flagged: int = 0

    def add(self, corpus: Corpus, flags: Lines) -> None:
        """Hold the flags of a corpus against what was planted in it."""
        for fault in corpus.planted:
            rule = fault.rules[0]
            self.planted[rule] += 1
            there = {(fault.file, line) for line in fault.lines}
            if any(there & flags.get(name, set()) for name in fault.rules):
                self.found[rule] += 1
            else:
                self.missed[rule][fault.shape] += 1
        all_clean = {(file, line) for file, lines in corpus.clean.items() for line in lines}
        wrong = set()
        for rule, lines in flags.items():
            self.flagged[rule] += len(lines)
            self.on_clean[rule] += len(lines & all_clean)
            wrong |= lines & all_clean
            self.examples += [f"{rule}  {file}:{line}" for file, line in sorted(lines & all_clean)[:3]]
        self.clean += len(all_clean)
        self.clean_flagged += len(wrong)

    def faults(self) -> list[str]:
        """What is below the promise."""
        found = []
        for rule, count in self.planted.items():
            if self.found[rule] < LEAST_RECALL * count:
                found.append(f"{rule}: {self.found[rule]} of {count} found, promised are {LEAST_RECALL:.0%}")
        if self.clean_flagged > MOST_CLEAN * self.clean:
            found.append(f"{self.clean_flagged} of {self.clean:,} clean rows flagged, promised are {MOST_CLEAN:.1%}")
        return found


def check(folder: Path, *more: str | Path) -> Mapping[str, Any]:
    """Return the document of `attune check` over the two files of a folder."""
    train, valid = (str(folder / file) for file in FILES)
    command = [sys.executable, "-m", "attune", "check", train, "--data.valid", valid, *map(str, more), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode not in (0, 3):  # 3: it found errors in the data
        raise SystemExit(f"attune check ended with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    document: Mapping[str, Any] = json.loads(done.stdout)
    return document


def flags_of(document: Mapping[str, Any]) -> Lines:
    """Return the lines that each rule names."""
    flags: Lines = defaultdict(set)
    for finding in document["findings"]:
        flags[finding["name"]] |= {(Path(place["file"]).name, place["line"]) for place in finding["examples"]}
    return flags


def add_long_rows(score: Score, folder: Path, rows: int, each: int) -> None:
    """Check rows that are longer than the limit with the bundled model: what cutting them loses, and how they end."""
    corpus = grow_long(rows=rows, each=each, seed=1)
    corpus.write(folder)
    score.add(corpus, flags_of(check(folder, "--model", starter_folder(), "--data.overlong", "cut")))


def judge_prompts(folder: Path, rows: int) -> list[str]:
    """Return what is wrong with the alarm on real prompts: it must be raised for those of another kind only."""
    clean_corpus(rows=rows, seed=1).write(folder)
    alike = folder / "alike.jsonl"
    turns = [row["messages"] for row in clean_corpus(rows=rows // 2, seed=2).rows[FILES[0]]]
    prompts = [[turn["content"] for turn in row if turn["role"] == "user"][-1] for row in turns]
    alike.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts), encoding="utf-8")
    found = []
    for real, is_alike in ((alike, True), (tickets_folder() / "real_prompts.jsonl", False)):
        severities = {
            one["severity"] for one in check(folder, "--against", real)["findings"] if one["name"] == "mismatch"
        }
        print(
            f"mismatch, prompts of {'the same' if is_alike else 'another'} kind: {', '.join(severities) or 'nothing'}"
        )
        if bool(severities & {"warning", "error"}) == is_alike:
            found.append(f"mismatch: wrong about prompts of {'the same' if is_alike else 'another'} kind")
    return found


def print_table(score: Score) -> None:
    """Print a line for each rule, then the totals."""
    print(f"{'rule':22} {'planted':>8} {'found':>8} {'recall':>8} {'flagged':>8} {'clean':>6} {'precision':>10}")
    for rule in sorted({*score.planted, *(name for name in score.flagged if score.on_clean[name])}):
        planted, flagged = score.planted[rule], score.flagged[rule]
        recall = f"{score.found[rule] / planted:.3f}" if planted else "-"
        precision = f"{1 - score.on_clean[rule] / flagged:.3f}" if flagged else "-"
        found, clean = score.found[rule], score.on_clean[rule]
        print(f"{rule:22} {planted:8} {found:8} {recall:>8} {flagged:8} {clean:6} {precision:>10}")
        if score.missed[rule]:
            print(
                "    missed: " + ", ".join(f"{shape!r} {count}" for shape, count in score.missed[rule].most_common(5))
            )
    print(f"clean rows flagged: {score.clean_flagged} of {score.clean:,} ({score.clean_flagged / score.clean:.2%})")
    for example in score.examples[:20]:
        print(f"    {example}")


def main() -> None:
    """Grow the corpora, check them, print the table; code 1 below the promise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5000, help="clean training rows of a corpus")
    parser.add_argument("--each", type=int, default=40, help="faults of every rule")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="one corpus for each")
    parser.add_argument("--keep", type=Path, help="leave the files in this folder, to look at them")
    chosen = parser.parse_args()
    score = Score()
    with tempfile.TemporaryDirectory() as temporary:
        for seed in chosen.seeds:
            planted = grow(rows=chosen.rows, each=chosen.each, seed=seed)
            for corpus, name in (
                (planted, f"planted-{seed}"),
                (clean_corpus(rows=chosen.rows, seed=seed + 1000), "clean"),
            ):
                folder = (chosen.keep or Path(temporary)) / name
                corpus.write(folder)
                score.add(corpus, flags_of(check(folder)))
        add_long_rows(score, (chosen.keep or Path(temporary)) / "long", 600, chosen.each)
        print_table(score)
        broken = score.faults() + judge_prompts((chosen.keep or Path(temporary)) / "prompts", 2000)
    print("\n".join(broken) or "All promises kept.")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
