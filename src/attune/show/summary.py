"""The end of `attune check` and `attune eval` in lines for a terminal, from their JSON documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attune.show.words import LOSSES, SYSTEMS, count, metric_difference, metric_name, metric_value, percent, rows_of

MAX_FINDINGS = 6  # of `attune check`, at most three lines each; all of them are in the JSON document
LABEL = 10  # width of a label, as in the lines of a run
NAME = 22  # width of a metric's name
SAMPLES = 3
TEXT = 110  # characters of a question or answer


def check_lines(document: Mapping[str, Any], next_command: str) -> Iterator[str]:
    """Yield what `attune check` found: rows, tokens, findings, and whether training could start."""
    ledger = document["ledger"]
    states = ", ".join(f"{count(number)} {state.replace('_', ' ')}" for state, number in ledger.items() if number)
    yield f"{'rows':<{LABEL}}{count(document['rows'])}: {states or 'none usable'}"
    tokens = document["tokens"]
    if tokens["in"]:
        lost = f", {count(tokens['lost'])} lost to length" if tokens["lost"] else ""
        share = percent(tokens["learned"] / tokens["in"])
        yield f"{'tokens':<{LABEL}}{count(tokens['in'])}, {count(tokens['learned'])} learned ({share}){lost}"
    findings = document["findings"]
    for finding in findings[:MAX_FINDINGS]:
        first = finding["examples"][:1]
        where = f" (first: {first[0]['file']}:{first[0]['line']})" if first else ""
        yield f"{finding['severity']:<{LABEL}}{finding['id']} {finding['name']}, {rows_of(finding['rows'])}{where}"
        yield f"{'':<{LABEL}}{finding['message']}"
        if finding["fix"] and finding["severity"] != "info":
            yield f"{'':<{LABEL}}{finding['fix']}"
    if len(findings) > MAX_FINDINGS:
        yield f"{'':<{LABEL}}and {len(findings) - MAX_FINDINGS} more findings: --json lists all"
    yield f"{'result':<{LABEL}}{'fit to train on' if document['ok'] else 'not fit to train on: mend the errors above'}"
    if document["ok"]:
        yield f"{'next':<{LABEL}}{next_command}"


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
