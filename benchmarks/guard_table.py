"""What guards.py measured, judged and as tables: who spoke in time, and who spoke though nothing was wrong."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.guard_cases import CASES, CLEAN, DAMAGES, SICK, Case
from benchmarks.guard_runs import half_of

Result = Mapping[str, Any]
LEAST_SHARE = 0.95  # of the sick runs, in which a guard must have spoken before half the damage
LEAST_CLEAN = 20  # clean runs that make a finding
LEAST_DAMAGE = {
    "valid": 0.1,
    "general": 0.1,
    "sure": 4.0,
    "spent": 0.0,
    "idle": 4.0,
    "noise": 0.0,
}  # below it a run is not sick


@dataclass(frozen=True, slots=True)
class Judged:
    """What one sick run says of the alarms that must speak."""

    is_sick: bool  # the damage came at all
    first: int | None  # step of the first such alarm
    half: float | None  # step by which half of the damage is done
    severities: tuple[str, ...]

    @property
    def in_time(self) -> bool:
        """Whether an alarm came before half of the damage was done."""
        return self.first is not None and self.half is not None and self.first <= self.half


def judge(case: Case, names: Sequence[str], result: Result) -> Judged:
    """Return how a sick run came out, by the alarms of these names."""
    alarms = [alarm for alarm in result["alarms"] if alarm["name"] in names]
    curve = [(step, value) for step, value in result["curve"]]
    worst = max((value for _, value in curve), default=0.0)
    return Judged(
        is_sick=worst > LEAST_DAMAGE[case.damage],
        first=min((alarm["step"] for alarm in alarms), default=None),
        half=half_of(curve),
        severities=tuple(sorted({alarm["severity"] for alarm in alarms})),
    )


def results_of(report: Result, case: Case) -> list[Result]:
    """Return the runs of a case that came to an end of some kind."""
    return [result for result in report["runs"].values() if result.get("case") == case.name]


def promises(case: Case) -> Iterator[tuple[str, ...]]:
    """Yield the names of alarms of which one must speak in the runs of a case, one set after another."""
    yield case.expects
    yield from case.also


def tables(report: Result) -> str:
    """Return everything in Markdown."""
    lines = [f"Measured on {devices(report)}, attune {report['versions']['attune']}.", "", "## Sick runs", ""]
    lines += [*sick_table(report), "", *remarks(report), "## Clean runs", "", *clean_table(report)]
    return "\n".join([*lines, *cost_table(report), *failures(report), ""])


def devices(report: Result) -> str:
    """Return on what the runs were computed, and how many on each."""
    counts = Counter(run.get("device", report["device"]) for run in report["runs"].values())
    if len(counts) < 2:
        return f"{next(iter(counts), report['device'])}"
    return " and ".join(f"{device} ({count} runs)" for device, count in counts.most_common())


def sick_table(report: Result) -> list[str]:
    """Return a line for every sick case and every alarm that must speak in it."""
    lines = [
        "| run | damage | alarm | runs | spoke | before half the damage | first alarm at step | half at step | level |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for case in SICK:
        found = results_of(report, case)
        for names in promises(case):
            judged = [one for one in (judge(case, names, result) for result in found) if one.is_sick]
            if not judged:
                continue
            cells = [
                f"{case.name}: {case.words}",
                DAMAGES[case.damage],
                " or ".join(names),
                str(len(judged)) if len(judged) == len(found) else f"{len(judged)} of {len(found)}",
                f"{sum(one.first is not None for one in judged) / len(judged):.0%}",
                f"{sum(one.in_time for one in judged) / len(judged):.0%}",
                _span([one.first for one in judged if one.first is not None]),
                _span([one.half for one in judged if one.half is not None]),
                ", ".join(sorted({level for one in judged for level in one.severities})),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _span(steps: Sequence[float]) -> str:
    """Return the median of some steps, and between what they lie."""
    if not steps:
        return "-"
    low, middle, high = min(steps), statistics.median(steps), max(steps)
    return f"{middle:.0f}" if low == high else f"{middle:.0f} ({low:.0f}-{high:.0f})"


def remarks(report: Result) -> list[str]:
    """Say which runs were not sick after all, whether the right rows were named, and what else spoke."""
    lines = []
    for case in SICK:
        found = results_of(report, case)
        if culprits := sum(result["culprits"] for result in found):
            lines.append(f"- {case.name}: alarms named {sum(r['named'] for r in found)} of {culprits} such rows.")
        wanted = {name for names in promises(case) for name in names}
        others = Counter(name for result in found for name in {alarm["name"] for alarm in result["alarms"]} - wanted)
        if others:
            said = ", ".join(f"{name} in {count}" for name, count in others.most_common())
            lines.append(f"- {case.name}: also spoke, of {len(found)} runs: {said}.")
    return [*lines, ""] if lines else []


def clean_table(report: Result) -> list[str]:
    """Return a line for every clean case: how many of its runs had alarms of each level, and which."""
    lines = ["| run | runs | with errors | with warnings | with infos | alarms |", "|---|---|---|---|---|---|"]
    total, wrong = 0, 0
    for case in CLEAN:
        found = results_of(report, case)
        if not found:
            continue
        levels = Counter(level for result in found for level in {alarm["severity"] for alarm in result["alarms"]})
        names = Counter(
            f"{name} ({level})"
            for result in found
            for name, level in {(alarm["name"], alarm["severity"]) for alarm in result["alarms"]}
        )
        said = ", ".join(f"{name} {count}" for name, count in names.most_common())
        counts = [str(levels[level]) for level in ("error", "warning", "info")]
        lines.append(f"| {' | '.join([f'{case.name}: {case.words}', str(len(found)), *counts, said])} |")
        total, wrong = total + len(found), wrong + levels["error"]
    return [*lines, "", f"{wrong} of {total} clean runs had an alarm of level error."]


def cost_table(report: Result) -> list[str]:
    """Return what the guards cost, where it was measured: the ratio of neighbouring runs with and without."""
    lines = []
    for name, pairs in report.get("cost", {}).items():
        ratios = [pair["on"]["seconds"] / pair["off"]["seconds"] - 1 for pair in pairs]
        shares = [pair["on"]["probes"] / pair["off"]["seconds"] for pair in pairs]
        cells = [
            name,
            str(pairs[0]["on"]["steps"]),
            f"{statistics.median(pair['off']['seconds'] for pair in pairs):.1f}",
            f"{statistics.median(pair['on']['seconds'] for pair in pairs):.1f}",
            f"{statistics.median(ratios):+.1%} ({min(ratios):+.1%} to {max(ratios):+.1%})",
            f"{statistics.median(shares):.1%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    head = ["", "## Cost", "", "| run | steps | seconds without | with guards | more | of which measuring |"]
    return [*head, "|---|---|---|---|---|---|", *lines] if lines else []


def failures(report: Result) -> list[str]:
    """Say which runs did not begin or were lost, and why."""
    lines = [f"- {key}: {result['failed']}" for key, result in report["runs"].items() if "failed" in result]
    return ["", "Did not run:", "", *lines] if lines else []


def broken(report: Result) -> list[str]:
    """Return which promises the runs do not support, in words."""
    found = []
    for case in SICK:
        for names in promises(case):
            judged = [one for one in (judge(case, names, r) for r in results_of(report, case)) if one.is_sick]
            share = sum(one.in_time for one in judged) / len(judged) if judged else 1.0
            if share < LEAST_SHARE:
                found.append(f"{case.name}: {' or '.join(names)} in time in {share:.0%} of {len(judged)} runs")
    for key, result in report["runs"].items():
        if "failed" in result:
            found.append(f"{key}: {result['failed']}")
        elif CASES[result["case"]].is_clean:
            errors = sorted({alarm["name"] for alarm in result["alarms"] if alarm["severity"] == "error"})
            found += [f"{key}: {name} on clean rows" for name in errors]
            found += [f"{key}: {result['ended']}"] if result["ended"] != "done" else []
    return found
