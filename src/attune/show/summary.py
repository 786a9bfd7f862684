"""The end of `attune check` and `attune eval` in lines for a terminal, from their JSON documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from textwrap import wrap
from typing import Any

from attune.show.facts import mapping
from attune.show.words import (
    LOSSES,
    SEVERITIES,
    SYSTEMS,
    count,
    metric_difference,
    metric_name,
    metric_value,
    percent,
    rows_of,
    visible,
)

MAX_CHECK_LINES = 25  # of `attune check`; all findings are in the JSON document
WIDTH = 110  # of a message beside its label
LABEL = 10  # width of a label, as in the lines of a run
NAME = 22  # width of a metric's name
SAMPLES = 3
TEXT = 110  # characters of a question or answer


def check_lines(
    document: Mapping[str, Any],
    next_command: str,
    *,
    fix_command: str = "",
    report: str = "",
    most: int = MAX_CHECK_LINES,
) -> Iterator[str]:
    """Yield what `attune check` found, worst first: rows, tokens, findings, and whether training could start.

    The last line is what to type next: `next_command` for good rows, else `fix_command` where a finding's advice names
    --fix. `report` is the page that was written, if one was. At most `most` lines.
    """
    first, last = [*_amounts(document)], [*_outcome(document, next_command, fix_command, report=report)]
    yield from first
    yield from _finding_lines(document["findings"], most - len(first) - len(last))
    yield from last


def _amounts(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield how many rows and tokens there are, and what the rows cover."""
    states = ", ".join(
        f"{count(number)} {name.replace('_', ' ')}" for name, number in document["ledger"].items() if number
    )
    yield _labelled("rows", f"{count(document['rows'])}: {states or 'none usable'}")
    tokens = document["tokens"]
    if tokens["in"]:
        lost = f", {count(tokens['lost'])} lost to length" if tokens["lost"] else ""
        share = percent(tokens["learned"] / tokens["in"])
        yield _labelled("tokens", f"{count(tokens['in'])}, {count(tokens['learned'])} learned ({share}){lost}")
    coverage = mapping(document.get("coverage"))
    answer, languages = mapping(mapping(coverage.get("words")).get("answer")), mapping(coverage.get("languages"))
    said = [f"answers of {count(answer['p5'])} to {count(answer['p95'])} words"] if {"p5", "p95"} <= set(answer) else []
    said += [f"{name} {percent(share)}" for name, share in sorted(languages.items(), key=lambda one: -one[1])[:3]]
    if said:
        yield _labelled("covers", ", ".join(said))


def _outcome(document: Mapping[str, Any], next_command: str, fix_command: str, *, report: str) -> Iterator[str]:
    """Yield whether training could start, where the page is, and what to type next."""
    is_ok = document["ok"]
    yield _labelled("result", "fit to train on" if is_ok else "not fit to train on: mend the errors above")
    if report:
        yield _labelled("report", report)
    can_fix = fix_command and any("--fix" in finding["fix"] for finding in document["findings"])
    if is_ok or can_fix:
        yield _labelled("next", next_command if is_ok else fix_command)


def _finding_lines(findings: Sequence[Mapping[str, Any]], room: int) -> Iterator[str]:
    """Yield the findings in at most `room` lines: one for each, then the details of the worst as far as they fit."""
    ordered = sorted(findings, key=lambda finding: SEVERITIES.index(finding["severity"]))
    if len(ordered) > room:
        yield from (_line_of(finding) for finding in ordered[: room - 1])
        yield _labelled("", f"and {len(ordered) - room + 1} more findings: --json lists all")
        return
    room -= len(ordered)
    for finding in ordered:
        told = _at_length(finding)
        if len(told) - 1 > room:
            room = 0  # the ones after it matter less: none of them is told at greater length
            told = [_line_of(finding)]
        room -= len(told) - 1
        yield from told


def _line_of(finding: Mapping[str, Any]) -> str:
    """Return a finding in one line: its name, rows and first place; of an info the beginning of what it says."""
    name = f"{finding['id']} {finding['name']}"
    if finding["severity"] == "info":
        return _labelled("info", _short(f"{name}: {finding['message']}"))
    first = finding["examples"][:1]
    where = f" (first: {first[0]['file']}:{first[0]['line']})" if first else ""
    return _labelled(finding["severity"], f"{name}, {rows_of(finding['rows'])}{where}")


def _at_length(finding: Mapping[str, Any]) -> list[str]:
    """Return a finding in all its lines: its name and first place, what it means and what to do."""
    if finding["severity"] == "info":
        first, *rest = wrap(f"{finding['id']} {finding['name']}: {finding['message']}", WIDTH, break_on_hyphens=False)
        return [_labelled("info", first), *(_labelled("", line) for line in rest)]
    told = [line for text in (finding["message"], finding["fix"]) for line in text.splitlines()]
    lines = [part for line in told for part in wrap(line, WIDTH, break_on_hyphens=False)]
    return [_line_of(finding), *(_labelled("", line) for line in lines)]


def _labelled(label: str, text: str) -> str:
    """Return a line of the summary; what a terminal would obey in it is written out."""
    return f"{label:<{LABEL}}{visible(text)}"


def evaluation_lines(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield a table of metrics, a row each and a column for each system, then the verdict."""
    systems = [name for name in SYSTEMS if name in document["systems"]]
    compared = {item["metric"]: item for item in document["comparisons"] if (item["a"], item["b"]) == ("base", "tuned")}
    metrics = list(dict.fromkeys(metric for name in systems for metric in document["systems"][name]))
    title = rows_of(document["rows"])
    yield f"{title:<{NAME}}" + "".join(f"{SYSTEMS[name]:>10}" for name in systems)
    for metric in metrics:
        values = "".join(f"{metric_value(metric, document['systems'][name].get(metric)):>10}" for name in systems)
        yield f"{metric_name(metric):<{NAME}}{values}{_difference(metric, compared.get(metric))}"
    yield f"{'verdict':<{LABEL}}{document['verdict']}"


def sample_lines(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a few rows of an evaluation, evenly spread: what was asked and wanted, and what each system said."""
    last = len(records) - 1
    for place in sorted({last * part // max(1, SAMPLES - 1) for part in range(SAMPLES)}) if records else []:
        record = records[place]
        yield f"{'asked':<{LABEL}}{_short(record['prompt'])}"
        yield f"{'wanted':<{LABEL}}{_short(record['reference'])}"
        for name in SYSTEMS:
            if name in record["answers"]:
                yield f"{name:<{LABEL}}{_short(record['answers'][name])}"


def _short(text: str) -> str:
    """Return a text on one line of at most TEXT characters."""
    line = " ".join(text.split())
    return line if len(line) <= TEXT else f"{line[: TEXT - 3]}..."


def _difference(metric: str, compared: Mapping[str, Any] | None) -> str:
    """Return a difference with its interval and word, such as `+12.5 (+8.1 to +16.9) better`."""
    if compared is None:
        return ""
    low, high = metric_difference(metric, compared["low"]), metric_difference(metric, compared["high"])
    unit = "" if metric in LOSSES else " points"
    return f"   {metric_difference(metric, compared['difference'])}{unit} ({low} to {high}) {compared['verdict']}"
