"""Rows for the runs of guards.py: sound ones of several kinds, made of the bundled tickets, and ways to spoil them.

Every function takes its dice, so that a run's rows are a function of its seed.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from attune.bundled import tickets_folder
from attune.config import Config
from attune.data.lint.view import view
from attune.data.reading.intake import read_examples

Row = Mapping[str, str]  # prompt and completion
Task = Callable[[Row], Row | None]

_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_NOISE = ("zq", "xv", "kk", "jw", "qx", "vv", "wz", "xj", "qq", "zz", "vk", "jx")


def draw_tickets(dice: random.Random, split: str, count: int, task: Task) -> list[Row]:
    """Return `count` rows of a task, made of tickets of a split (train or valid) in a random order."""
    with (tickets_folder() / f"{split}.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    dice.shuffle(rows)
    made = [row for row in map(task, rows) if row is not None]
    assert len(made) >= count, f"{split}: {len(made)} rows can be made, {count} are wanted"
    return made[:count]


def draw_file(dice: random.Random, path: Path, count: int, longest: int = 600) -> list[Row]:
    """Return `count` random rows of a file in any layout that attune reads, none over `longest` characters."""
    seen = (view(number, example) for number, example in enumerate(read_examples(str(path), Config().data)))
    rows: list[Row] = [
        {"prompt": row.question, "completion": row.answer}
        for row in seen
        if row.question and row.answer and len(row.question) + len(row.answer) <= longest
    ]
    dice.shuffle(rows)
    assert len(rows) >= count, f"{path}: {len(rows)} rows are short enough, {count} are wanted"
    return rows[:count]


def ticket(row: Row) -> Row:
    """Return a ticket as it is: a message and the JSON object of what it says."""
    return row


def label(row: Row) -> Row:
    """Return a message and what it is about, one of eight words."""
    return {"prompt": f"{row['prompt']}\nWhat is it about?", "completion": str(json.loads(row["completion"])["issue"])}


def letter(row: Row) -> Row | None:
    """Return the first sentence of a message and, as free text to be written, the others; None for a short message."""
    sentences = _SENTENCE.split(row["prompt"])
    if len(sentences) < 3:
        return None
    return {"prompt": f"Go on with this letter: {sentences[0]}", "completion": " ".join(sentences[1:])}


def open_alike(dice: random.Random, rows: Sequence[Row], share: float = 0.9) -> list[Row]:
    """Return the rows with "Sure!" before the answer of a share of them."""
    said = set(dice.sample(range(len(rows)), round(share * len(rows))))
    return [
        {**row, "completion": f"Sure! {row['completion']}"} if number in said else row
        for number, row in enumerate(rows)
    ]


def shuffle_answers(dice: random.Random, rows: Sequence[Row]) -> list[Row]:
    """Return the rows with their answers dealt out anew: none has anything to do with its question."""
    answers = [row["completion"] for row in rows]
    dice.shuffle(answers)
    return [{**row, "completion": answer} for row, answer in zip(rows, answers, strict=True)]


def plant_noise(dice: random.Random, rows: Sequence[Row], count: int) -> list[Row]:
    """Return the rows with the answers of `count` of them turned into long strings of meaningless letters."""
    bad = set(dice.sample(range(len(rows)), count))
    return [
        {**row, "completion": " ".join(dice.choices(_NOISE, k=120))} if number in bad else row
        for number, row in enumerate(rows)
    ]


def is_noise(row: Row) -> bool:
    """Whether a row's answer was planted by `plant_noise`."""
    return set(row["completion"].split()) <= set(_NOISE)


def mix_lengths(dice: random.Random, rows: Sequence[Row], share: float = 0.06) -> list[Row]:
    """Return rows of which a share answers with many sentences, the others with one word."""
    text = " ".join(row["completion"] for row in rows)
    words = text.split()
    return [
        {**row, "completion": " ".join(words[:250]) if dice.random() < share else words[number]}
        for number, row in enumerate(rows)
    ]


def write_rows(path: Path, rows: Iterable[Row]) -> str:
    """Write rows as JSONL and return the path as text."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)
