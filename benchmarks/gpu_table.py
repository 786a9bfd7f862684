"""The results of gpu.py as tables: what was measured, beside the fastest peer and beside what was aimed at."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_cases import CASES, TINY, Case, Sizes, make_rows, model_shape, plain_flos

Result = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Speed:
    """One side of a case in numbers; medians over the last steps."""

    name: str
    tokens_per_s: float  # of the rows, without padding
    step_s: float
    tflops: float
    gib: float
    reserved_gib: float
    first_step_s: float
    idle: float | None


def speed_of(name: str, result: Result, *, measured: int, flos_per_token: float) -> Speed:
    """Return the numbers of one side; a side that does not count its operations gets those of plain training."""
    seconds, tokens = result["seconds"][-measured:], result["tokens"][-measured:]
    flos = result.get("flos", [flos_per_token * count for count in result["tokens"]])[-measured:]
    return Speed(
        name=name,
        tokens_per_s=statistics.median(count / took for count, took in zip(tokens, seconds, strict=True)),
        step_s=statistics.median(seconds),
        tflops=statistics.median(count / took for count, took in zip(flos, seconds, strict=True)) / 1e12,
        gib=result["allocated_gib"],
        reserved_gib=result["reserved_gib"],
        first_step_s=result["first_step_s"],
        idle=result["idle_share"],
    )


def speeds_of(report: Result, case: Case) -> list[Speed]:
    """Return attune and all peers of a case that ran, attune first; peers of another case that do the same work too."""
    plan, found = report["plan"], report["cases"]
    sizes, tiny = (TINY, True) if plan["tiny"] else (Sizes(), False)
    vocabulary = model_shape(case, tiny=tiny)["vocab_size"]
    rows = make_rows(case, sizes, steps=plan["steps"], vocabulary=vocabulary, seed=plan["seed"])
    flos = plain_flos(case, rows, tiny=tiny)
    sides = {"attune": found.get(case.name, {}).get("attune", {})}
    sides |= found.get(case.as_in or case.name, {}).get("peers", {})
    return [
        speed_of(name, result, measured=plan["measured"], flos_per_token=flos)
        for name, result in sides.items()
        if "seconds" in result
    ]


def verdict(case: Case, own: Speed, peer: Speed | None) -> tuple[str, str]:
    """Return what was aimed at, in words, and whether it was reached: yes, no or nothing."""
    aim = case.aim
    wishes: list[tuple[str, bool | None]] = []
    if aim.ratio is not None:
        wishes.append(
            (f"{aim.ratio:g} times", None if peer is None else own.tokens_per_s >= aim.ratio * peer.tokens_per_s)
        )
    if aim.tokens_per_s is not None:
        wishes.append((f"{aim.tokens_per_s:,.0f} tok/s", own.tokens_per_s >= aim.tokens_per_s))
    if aim.gib is not None:
        wishes.append((f"{aim.gib:g} GiB", own.gib <= aim.gib))
    if aim.no_more_memory:
        wishes.append(("no more memory", None if peer is None else own.gib <= peer.gib))
    met = [reached for _, reached in wishes]
    reached = "no" if False in met else "" if None in met or not met else "yes"
    return ", ".join(words for words, _ in wishes), reached


def tables(report: Result) -> str:
    """Return the tables in Markdown: one of cases, one of all sides, then what did not run."""
    peaks = [found["flops"] / 1e12 for found in report["multiply"].values()]
    device = next(iter(report["multiply"].values()))["device"]
    where = f"one {device}" if len(peaks) == 1 else f"{len(peaks)} {device}s, each case with all its sides on one"
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    reached = " and ".join(f"{peak:.0f}" for peak in peaks)
    head = [
        f"Measured on {where}: {versions}.",
        f"A matrix product of 8,192 x 8,192 x 8,192 in bf16, of random numbers, ran at {reached} TFLOP/s.",
        "",
    ]
    return "\n".join([*head, *_case_table(report), "", *_side_table(report), *_failures(report), ""])


def _in_order(report: Result) -> list[str]:
    """Return the measured cases in the order of CASES, whichever card ended first."""
    return [name for name in CASES if name in report["cases"]]


def _peak_of(report: Result, name: str) -> float:
    """Return the TFLOP/s of the matrix product on the card of a case."""
    return float(report["multiply"][str(report["cases"][name]["card"])]["flops"] / 1e12)


def _case_table(report: Result) -> list[str]:
    lines = [
        "| case | tok/s | TFLOP/s | of the peak | GiB | fastest peer, tok/s | its GiB | ratio | aim | reached |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in _in_order(report):
        case = CASES[name]
        speeds = speeds_of(report, case)
        if not speeds or speeds[0].name != "attune":
            continue
        own, peers, peak = speeds[0], speeds[1:], _peak_of(report, name)
        peer = max(peers, key=lambda speed: speed.tokens_per_s) if peers else None
        aim, reached = verdict(case, own, peer)
        other = (
            ["", "", ""]
            if peer is None
            else [
                f"{peer.tokens_per_s:,.0f} ({peer.name})",
                f"{peer.gib:.1f}",
                f"{own.tokens_per_s / peer.tokens_per_s:.2f}",
            ]
        )
        cells = [
            case.words,
            f"{own.tokens_per_s:,.0f}",
            f"{own.tflops:.0f}",
            f"{own.tflops / peak:.0%}",
            f"{own.gib:.1f}",
        ]
        lines.append(f"| {' | '.join([*cells, *other, aim, reached])} |")
    return lines


def _side_table(report: Result) -> list[str]:
    lines = [
        "| case | side | tok/s | step, ms | of the peak | GiB allocated | reserved | first step, s | GPU idle |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in _in_order(report):
        peak = _peak_of(report, name)
        for speed in speeds_of(report, CASES[name]):
            idle = "" if speed.idle is None else f"{speed.idle:.1%}"
            cells = [name, speed.name, f"{speed.tokens_per_s:,.0f}", f"{1000 * speed.step_s:.0f}"]
            cells += [f"{speed.tflops / peak:.0%}", f"{speed.gib:.1f}", f"{speed.reserved_gib:.1f}"]
            lines.append(f"| {' | '.join([*cells, f'{speed.first_step_s:.1f}', idle])} |")
    return lines


def _failures(report: Result) -> list[str]:
    """Say which sides did not run, and why."""
    lines = []
    for name, sides in report["cases"].items():
        for side, result in {"attune": sides.get("attune", {}), **sides.get("peers", {})}.items():
            if why := result.get("failed"):
                lines.append(f"- {name}, {side}: {why}")
    return ["", "Did not run:", "", *lines] if lines else []


def kernels(report: Result) -> str:
    """Return the kernels that took most of the time of each side, in shares of it."""
    lines: list[str] = []
    for name, sides in report["cases"].items():
        for side, result in {"attune": sides.get("attune", {}), **sides.get("peers", {})}.items():
            if result.get("kernels"):
                lines.append(f"{name}, {side} ({result['kernels_per_step']:.0f} kernels a step)")
                lines += [f"  {share:6.1%}  {kernel}" for kernel, share in result["kernels"]]
    return "\n".join(lines)


def write_into(file: Path, text: str, intro: Sequence[str], *, program: str = "gpu.py") -> None:
    """Put the tables of a program between its two marks in a page; a page that has none gets them at its end."""
    begin, end = (f"<!-- written by benchmarks/{program}: {mark} -->" for mark in ("begin", "end"))
    page = file.read_text(encoding="utf-8") if file.exists() else "\n".join([*intro, "", begin, end, ""])
    if begin not in page:
        page = f"{page.rstrip()}\n\n{begin}\n{end}\n"
    before, rest = page.split(begin, 1)
    after = rest.split(end, 1)[1]
    file.write_text(f"{before}{begin}\n{text.strip()}\n{end}{after}", encoding="utf-8")
