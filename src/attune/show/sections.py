"""What the report's sections say: figures on top, comparisons, settings, machine, and the next command."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from attune.show import words
from attune.show.facts import Evaluation, Facts, Record, mapping, number

KeyFigure = tuple[str, str, str, str]  # name, what it was before training (or nothing), value, what stands under it

_MANIFEST = (
    "device",
    "hardware",
    "precision",
    "attention",
    "attention_reason",
    "kernels",
    "shares_prefixes",
    "beside",
    "seed",
    "threads",
    "world_size",
    "created",
)


def count_findings(facts: Facts) -> int:
    """Return how many findings in the data a reader should know before relying on the result."""
    return sum(finding.get("severity") in {"error", "warning"} for finding in facts.findings)


def key_figures(facts: Facts) -> list[KeyFigure]:
    """Return the figures on top of the page."""
    ledger, best = facts.ledger, facts.best
    counts = mapping(ledger.get("counts"))
    trained = sum(number(counts.get(state)) or 0 for state in ("used", "cut")) if counts else None
    made = number(ledger.get("augmented")) or 0
    rows_in = f"of {words.count(ledger.get('rows'))} rows in" if counts else "no ledger"
    rows_in += f", {words.count(made)} reworded" if made else ""
    tokens = sum(number(ledger.get(key)) or 0 for key in ("tokens_in", "tokens_augmented"))
    tokens_in = f"of {words.count(tokens)} tokens{' with reworded rows' if made else ' in'}" if ledger else "no ledger"
    last = facts.steps[-1] if facts.steps else {}
    total = number(facts.result.get("total_steps"))
    # result.json holds the time at its last writing, which for a running or killed run was the start
    seconds = facts.result.get("seconds") if facts.status != "running" else last.get("time")
    return [
        ("Rows trained on", "", words.count(None if trained is None else trained + made), rows_in),
        ("Learned tokens", "", words.count(ledger.get("tokens_learned")), tokens_in),
        ("Steps", "", words.count(facts.last_step), f"of {words.count(total)} planned" if total else ""),
        (
            "Best step",
            "",
            words.count((best or {}).get("step")),
            _reason_of_best(facts) if best else "not validated yet" if facts.base else "no validation",
        ),
        ("Time", "", words.duration(seconds), f"{words.figure(last.get('epoch'), 2)} epochs" if last else ""),
        *_validation_figures(facts.base or {}, best or {}),
        *_general_figure(facts),
    ]


def _reason_of_best(facts: Facts) -> str:
    """Return what chose the step that is kept."""
    if facts.metric.startswith("val_"):
        return f"by {facts.metric.replace('val_', 'validation ').replace('_', ' ')}"
    return f"by {words.metric_name(facts.metric).lower()}"


def _general_figure(facts: Facts) -> list[KeyFigure]:
    """Return the loss on general text, from the base model to the step that is kept."""
    before = number(facts.probe(0).get("general_loss"))
    after = number(facts.probe((facts.best or {}).get("step", facts.last_step)).get("general_loss"))
    if before is None or after is None:
        return []
    return [("Loss on general text", words.figure(before), words.figure(after), "a rise is forgetting")]


def _validation_figures(base: Record, best: Record) -> list[KeyFigure]:
    """Return what validation measured, from the base model to the best step."""
    shown = []
    for name, write in (
        ("loss", words.figure),
        ("perplexity", words.figure),
        ("accuracy", words.percent),
        ("exact match", words.percent),
    ):
        key = f"val_{name.replace(' ', '_')}"
        if name == "exact match" and not any(number(record.get(key)) for record in (base, best)):
            continue  # long free text is never predicted whole
        before = write(base[key]) if key in base else ""
        if key in best:
            under = "base to best step" if before else "at the best step"
            shown.append((f"Validation {name}", before, write(best[key]), under))
        elif before:
            shown.append((f"Validation {name}", "", before, "base model only"))
    return shown


def comparison(one: Evaluation) -> Record:
    """Return an evaluation as tables: one per pair of systems, and the metrics that were not compared."""
    systems = {str(name): mapping(values) for name, values in mapping(one.document.get("systems")).items()}
    pairs: dict[tuple[str, str], list[Record]] = {}
    for item in one.document.get("comparisons") or ():
        a, b = str(item.get("a", "base")), str(item.get("b", "tuned"))
        pairs.setdefault((a, b), []).append(_compared(item, systems.get(a, {}), systems.get(b, {})))
    compared = {row["metric"] for rows in pairs.values() for row in rows}
    metrics = sorted({metric for values in systems.values() for metric in values} - compared)
    rest = [(name, [words.metric_value(name, values.get(name)) for values in systems.values()]) for name in metrics]
    tables = [{"a": _system(a), "b": _system(b), "rows": rows} for (a, b), rows in pairs.items()]
    named = {"name": one.name, "document": one.document, "systems": [_system(name) for name in systems]}
    return {**named, "tables": tables, "rest": rest}


def _system(name: str) -> str:
    return words.SYSTEMS.get(name, name)


def _compared(item: Mapping[str, Any], a: Mapping[str, Any], b: Mapping[str, Any]) -> Record:
    """Return one metric of one pair in words, with its interval as a drawing."""
    metric, p = str(item.get("metric")), number(item.get("p_holm", item.get("p")))
    verdict = str(item.get("verdict", ""))
    differences = {key: words.metric_difference(metric, item.get(key)) for key in ("difference", "low", "high")}
    return {
        "metric": metric,
        "name": words.metric_name(metric),
        "meaning": words.METRICS[metric][1] if metric in words.METRICS else "",
        "a": words.metric_value(metric, a.get(metric)),
        "b": words.metric_value(metric, b.get(metric)),
        **differences,
        "at": _drawn(item, 0.0 if metric in words.LOSSES else 1.0),
        "p": "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}",
        "verdict": verdict,
        "detectable": _detectable(metric, item) if verdict == "no evidence" else "",
    }


def _detectable(metric: str, item: Mapping[str, Any]) -> str:
    """Return how large a difference these rows would have shown, so that no evidence is not read as no difference."""
    smallest = number(item.get("detectable"))
    if smallest is None:
        return ""
    return f"{smallest:.3f} nats" if metric in words.LOSSES else f"{100 * smallest:.1f} points"


def _drawn(item: Mapping[str, Any], reach: float) -> tuple[float, float, float] | None:
    """Return where low, difference and high stand on a line from 2 to 98 with zero at 50; `reach` is its least end."""
    low, difference, high = (number(item.get(key)) for key in ("low", "difference", "high"))
    if low is None or difference is None or high is None:
        return None
    reach = max(reach, abs(low), abs(difference), abs(high)) or 1.0
    return round(50 + 48 * low / reach, 2), round(50 + 48 * difference / reach, 2), round(50 + 48 * high / reach, 2)


def settings(facts: Facts) -> list[tuple[str, str, str]]:
    """Return every setting with its value and, where it was resolved from `auto`, the reason."""
    resolved = mapping(facts.manifest.get("resolved"))
    rows = []
    for key in [*facts.config, *(key for key in resolved if key not in facts.config)]:
        said = mapping(resolved.get(key))
        value = said.get("value", facts.config.get(key))
        rows.append(
            (key, value if isinstance(value, str) else json.dumps(value, default=str), str(said.get("reason", "")))
        )
    return rows


def machine(facts: Facts) -> list[tuple[str, str]]:
    """Return what the run ran on and from, name and value."""
    manifest = facts.manifest
    model, template = mapping(manifest.get("model")), mapping(manifest.get("template"))
    files = mapping(manifest.get("data")).get("files") or ()
    known: list[tuple[str, Any]] = [("Model", model.get("name"))]
    if model:
        trained = f"{words.count(model.get('parameters'))}, of which trained {words.count(model.get('trainable'))}"
        known.append(("Parameters", trained))
    known += [("Data file", _file(one)) for one in files]
    if template:
        known.append(("Chat template", f"{template.get('name')}, SHA-256 {template.get('sha256')}"))
    known += [(name.replace("_", " ").capitalize(), manifest.get(name)) for name in _MANIFEST]
    known += [("attune", manifest.get("attune")), *mapping(manifest.get("versions")).items()]
    return [(str(name), _in_words(value)) for name, value in known if value not in (None, [])]


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)


def _file(one: Record) -> str:
    return f"{one.get('file')}, {words.size(one.get('bytes'))}, SHA-256 {one.get('sha256')}"


def next_command(facts: Facts) -> tuple[str, str]:
    """Return the next command to type and why."""
    if facts.status != "done" and facts.has_checkpoint:
        return (
            f"attune resume {facts.folder}",
            "Goes on from the last checkpoint, as if the run had never been interrupted.",
        )
    if facts.status != "done":
        again = str(facts.manifest.get("command") or "attune train --help")
        return again, "No checkpoint was written, so the run starts again, in a new folder."
    if not facts.evals:
        return (
            f"attune eval {facts.folder}",
            "Puts the base model and the tuned model before the same rows, and says which is better.",
        )
    return f"attune chat {facts.folder} --compare", "Talk to the tuned model beside the base model."


def openers(facts: Facts) -> list[tuple[str, str, Any]]:
    """Return with what answers begin most often, and how often: the base model, the step that is kept, the last one."""
    told = {record["step"]: record for record in facts.probes if record.get("opener") is not None}
    kept = (facts.best or {}).get("step")
    names = {0: "Base model", **({kept: f"Step {kept:,}, kept"} if kept else {})}
    steps = [step for step in dict.fromkeys([0, kept, max(told, default=0)]) if step in told]
    return [(names.get(s, f"Step {s:,}"), str(told[s]["opener"]), told[s].get("opener_share")) for s in steps]
