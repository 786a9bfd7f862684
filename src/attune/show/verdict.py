"""What a report says first: how the run ended, what it learned and forgot, and which guard spoke, in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from attune.show.facts import Facts, number
from attune.show.marks import divergence_zone
from attune.show.words import SEVERITIES, alarm_name, count, figure, metric_name, metric_value

UNCHANGED = 0.01  # nats per token; a smaller move of the loss on general text is none
CHOSEN = {"val_accuracy": "token accuracy", "val_exact_match": "answers predicted whole"}


def verdict(facts: Facts) -> tuple[str, list[str]]:
    """Return the headline and the sentences under it, in plain words and only from what was measured."""
    how_it_ended = _ending(facts)
    learned = _learning(facts)
    if facts.evals:
        first = facts.evals[0]
        said = [*_measured(first.document), *learned, *_forgetting(facts), *how_it_ended]
        return _sentence(str(first.document.get("verdict", ""))), said
    not_measured = "Whether its answers are better has not been measured yet."
    if how_it_ended:
        return how_it_ended[0], [*how_it_ended[1:], *learned, *_forgetting(facts), *([not_measured] if learned else [])]
    if learned:
        return learned[0], [*learned[1:], *_forgetting(facts), not_measured]
    return "Nothing was measured: the run has no validation rows and no evaluation.", []


def _sentence(said: str) -> str:
    """Return an evaluation's verdict as a sentence; a single word is spelled out."""
    spelled = {
        "better": "The tuned model is better than the base model.",
        "worse": "The tuned model is worse than the base model.",
        "no evidence": "There is no evidence that the tuned model differs from the base model.",
    }
    said = said.strip()
    if not said:
        return "An evaluation was made, but it holds no verdict."
    said = spelled.get(said.lower(), said)
    return said[0].upper() + said[1:] + ("" if said[-1] in ".!?" else ".")


def _measured(document: Mapping[str, Any]) -> list[str]:
    """Say on how many rows the verdict stands."""
    data = f" of {document['data']}" if document.get("data") else ""
    return [f"Measured on the same {count(document.get('rows'))} rows{data} for every model, paired row by row."]


def _learning(facts: Facts) -> list[str]:
    """Say what happened to the validation loss, from the base model to the best step and to the end."""
    base, best = facts.base, facts.best
    before, after = number((base or {}).get("val_loss")), number((best or {}).get("val_loss"))
    if best is None or after is None:
        return []
    said = [_change(before, after, f"step {best['step']:,}", facts.metric), *_chosen(facts, best)]
    if facts.result.get("stopped_early"):
        said.append(f"The run stopped early at step {facts.last_step:,}, because validation no longer improved.")
    last = facts.valids[-1]
    final = number(last.get("val_loss"))
    if final is not None and last["step"] > best["step"] and final > 1.01 * after:
        kept = f"the model kept is that of step {best['step']:,}"
        said.append(f"It rose again to {figure(final)} by step {last['step']:,}; {kept}.")
    zone = divergence_zone(facts)
    if zone is not None:
        surely = "significantly " if zone.is_tested else ""
        said.append(
            f"From step {zone.start:,} on it is {surely}above its lowest while training loss still falls: "
            "the model learns its rows by heart."
        )
    return said


def _chosen(facts: Facts, best: Mapping[str, Any]) -> list[str]:
    """Say what chose the step that is kept, where that is not the validation loss."""
    score = facts.score(dict(best))
    if facts.metric == "val_loss" or score is None:
        return []
    name = CHOSEN.get(facts.metric) or metric_name(facts.metric).lower()
    before = facts.score(facts.base) if facts.base else None
    was = f", {metric_value(facts.metric, before)} before" if before is not None else ""
    return [f"Step {best['step']:,} is kept for its {name}: {metric_value(facts.metric, score)}{was}."]


def _forgetting(facts: Facts) -> list[str]:
    """Say how far the loss on general text moved, from the base model to the step that is kept."""
    step = (facts.best or {}).get("step", facts.last_step)
    tuned = facts.probe(step) or (facts.probes[-1] if facts.probes else {})
    before, after = (number(record.get("general_loss")) for record in (facts.probe(0), tuned))
    if before is None or after is None or not tuned.get("step"):
        return []
    moved = after - before
    if abs(moved) < UNCHANGED:
        return [f"It forgets nothing that shows: on general text the loss stays at {figure(after)} nats per token."]
    if moved < 0:
        return [
            f"It forgets nothing that shows: on general text the loss fell from {figure(before)} to {figure(after)}."
        ]
    how = (
        f"{figure(before)} to {figure(after)} nats per token ({100 * math.expm1(min(moved, 50)):.0f} % more perplexity)"
    )
    return [f"It forgets: on general text the loss rose from {how}."]


def alarm_sentence(facts: Facts) -> str:
    """Return which guards spoke and how often, the worst first; nothing if none warned."""
    told = []
    for severity in SEVERITIES[:2]:
        names = [alarm_name(alarm) for alarm in facts.alarms if alarm.get("severity") == severity]
        parts = [
            f"{name}{f' {names.count(name)} times' if names.count(name) > 1 else ''}" for name in dict.fromkeys(names)
        ]
        if names:
            told.append(f"{count(len(names))} {severity}{'s' * (len(names) > 1)}: {', '.join(parts)}")
    return "; ".join(told)


def _change(before: float | None, after: float, where: str, metric: str) -> str:
    """Say how far the validation loss moved, from the base model to the step that is kept."""
    if before is None:
        return (
            f"The best validation loss is {figure(after)} nats per token, at {where}; the base model was not measured."
        )
    if after >= before:
        best = f"the best is {figure(after)} at {where}"
        return f"Validation loss never fell below the base model's {figure(before)} nats per token; {best}."
    share = f" ({100 * (before - after) / before:.0f} % lower)" if before > 0 else ""
    at = f"best at {where}" if metric == "val_loss" else f"at {where}"
    return f"Validation loss fell from {figure(before)} (base) to {figure(after)} nats per token{share}, {at}."


def _ending(facts: Facts) -> list[str]:
    """Say how a run ended that did not simply finish; nothing for one that did."""
    total = facts.result.get("total_steps")
    of = f" of {count(total)}" if number(total) else ""
    where = f"step {facts.last_step:,}{of}"
    if facts.status == "done":
        return []
    why = [str(event.get("message", "")) for event in facts.events if event.get("kind") == "error"][-1:]
    if facts.status == "failed":
        return [f"The run failed at {where}.", *why]
    if facts.status == "stopped":
        return [f"The run was stopped at {where}; it can be resumed."]
    return [f"The run has not finished: the last record is {where}.", *why]
