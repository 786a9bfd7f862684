"""The answers to the fixed prompts through training: the base model's beside that of each validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attune.show.answers import fields_right, text_of
from attune.show.charts import evenly
from attune.show.facts import Facts, Record, number
from attune.show.words import count, place

MAX_TIMES = 24  # validations of which answers are shown


@dataclass(frozen=True, slots=True)
class Told:
    """One answer: what is right about it in words, and whether it ended by itself."""

    step: int
    text: str
    finished: bool
    judged: str


@dataclass(frozen=True, slots=True)
class FollowedPrompt:
    """A prompt with the base model's answer and the later ones, by step."""

    place: str
    prompt: str
    reference: str
    base: Told | None
    answers: tuple[Told, ...]


def followed_prompts(facts: Facts) -> list[FollowedPrompt]:
    """Return the prompts that were answered at the validations, with at most MAX_TIMES answers each."""
    grouped: dict[tuple[str, Any], dict[int, Record]] = {}
    for record in facts.samples:
        step = number(record.get("step"))
        if step is not None:
            grouped.setdefault((str(record.get("file")), str(record.get("line"))), {})[int(step)] = record
    every = sorted({step for records in grouped.values() for step in records if step > 0})
    chosen = {*evenly(every, MAX_TIMES), (facts.best or {}).get("step")}
    return [_followed(records, chosen) for records in grouped.values()]


def _followed(records: dict[int, Record], steps: set[Any]) -> FollowedPrompt:
    first = next(iter(records.values()))
    base = records.get(0)
    reference = text_of(first.get("reference"))
    return FollowedPrompt(
        place(first),
        text_of(first.get("prompt")),
        reference,
        None if base is None else _told(0, base, reference),
        tuple(_told(step, records[step], reference) for step in sorted(records) if step in steps and step > 0),
    )


def _told(step: int, record: Record, reference: str) -> Told:
    answer = text_of(record.get("answer"))
    return Told(step, answer, bool(record.get("finished", True)), _judged(answer, reference))


def _judged(answer: str, reference: str) -> str:
    """Say what of an answer is as the reference has it; nothing of a free text that differs."""
    if reference and answer.strip() == reference.strip():
        return "equals the reference"
    right, fields = fields_right(reference, answer)
    return f"{count(right)} of {count(fields)} fields right" if fields else ""
