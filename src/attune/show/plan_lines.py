"""A plan in a few lines: does it fit, how long does it take, what to set, and the next command."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from attune.show.console import rate
from attune.show.words import MINUS, count, duration

Document = Mapping[str, Any]


def plan_lines(document: Document, words: str) -> list[str]:
    """Return a plan for people. `words`: what the next `attune train` is to be given beside what the plan chose."""
    lines = [f"{'fits' if document['fits'] else 'too big':<10}{_verdict(document)}", f"memory    {_parts(document)}"]
    lines.append(f"time      {_time(document)}")
    chosen = document["config"]
    if chosen:
        lines.append(f"config    {', '.join(f'{name} = {value}' for name, value in chosen.items())}{_layers(document)}")
    if document["fits"]:
        return [*lines, f"next      attune train {words}{_typed(chosen)}"]
    lines += [
        f"instead   {_set(change['config'])} would take about {gigabytes(change['total_gb'])}"
        for change in document["instead"]
    ]
    again = document["instead"][0]["config"] if document["instead"] else {}
    ending = _typed(again) or " --adapter.kind qlora, or a shorter data.max_length, or a smaller model"
    return [*lines, f"next      attune plan {words}{ending}"]


def gigabytes(value: float) -> str:
    """Return a size in words, such as 27.4 GB or 812 MB."""
    return f"{value:.1f} GB" if value >= 1 else f"{1000 * value:.0f} MB"


def _verdict(document: Document) -> str:
    memory = document["memory_gb"]
    needed = memory["total"] if memory["measured"] is None else memory["measured"]
    where = f"{gigabytes(document['capacity_gb'])} that are free on {document['device']}"
    how = "an estimate" if memory["measured"] is None else "measured"
    return f"{gigabytes(needed)} ({how}) of {where}"


def _parts(document: Document) -> str:
    memory = document["memory_gb"]
    names = ("weights", "gradients", "optimizer", "activations")
    parts = ", ".join(f"{name} {gigabytes(memory[name])}" for name in names)
    if document["error"] is None:
        return f"{parts}; at the peak {gigabytes(memory['total'])} (estimate)"
    off = f"{100 * document['error']:+.1f} %".replace("-", MINUS)
    return f"{parts}; at the peak {gigabytes(memory['total'])} estimated ({off})"


def _time(document: Document) -> str:
    work = (
        f"{count(document['steps'])} steps, {count(document['tokens'])} tokens, {document['train_flos']:.1e} operations"
    )
    if document["hours"] is None:
        return f"{work}; not measured"
    return f"{duration(3600 * document['hours'])} at {rate(document['tokens_per_s'])}: {work}"


def _layers(document: Document) -> str:
    number = document["checkpointing"]
    return f" (of {document['layers']} layers)" if number and "train.checkpointing" in document["config"] else ""


def _set(settings: Mapping[str, Any]) -> str:
    return " with ".join(f"{name} = {_word(value)}" for name, value in settings.items())


def _typed(settings: Mapping[str, Any]) -> str:
    return "".join(f" --{name} {shlex.quote(_word(value))}" for name, value in settings.items())


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
