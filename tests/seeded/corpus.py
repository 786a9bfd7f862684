"""A corpus of clean rows with planted faults, and the list of what was planted where.

Every rule that can be judged from rows alone has `each` faults of varied shapes. Same seed, same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.seeded import defects
from tests.seeded.clean import LABELS, SHARES, Row, chat, clean_rows, prompt_of, read_tickets
from tests.seeded.defects import Fault
from tests.seeded.words import Dice, paragraph, question, sentences

FILES = ("train.jsonl", "valid.jsonl")
OPENER = "Sure, I'd be happy to help."
OPENER_SHARE = 0.08  # of all rows: above the 5 % that a warning takes
PILE_SHARE = 0.02
PILE_WORDS = 190  # no clean answer is so long


@dataclass(frozen=True)
class Planted:
    """A fault: found when one of `rules` names one of `lines` (numbers from 1) of the file."""

    rules: tuple[str, ...]
    shape: str
    file: str
    lines: tuple[int, ...]


@dataclass
class Seed:
    """A row on its way into the corpus: where it falls (0 to 1), and the fault it belongs to."""

    at: float
    kind: str
    row: Row
    fault: int | None = None


@dataclass
class Field:
    """What has been sown: the rows of both files, and the rules and shape of every fault."""

    dice: Dice
    rows: dict[str, list[Seed]] = field(default_factory=lambda: {file: [] for file in FILES})
    faults: list[tuple[tuple[str, ...], str, str]] = field(default_factory=list)  # rules, shape, file

    def sow(self, kind: str, row: Row, *, file: str = FILES[0], after: float = 0.0, fault: int | None = None) -> None:
        """Put a row at a random place of a file behind `after`."""
        at = after + (1 - after) * self.dice.random()
        self.rows[file].append(Seed(at, kind, row, fault))

    def fault(self, rules: tuple[str, ...], shape: str, file: str = FILES[0]) -> int:
        """Number a new fault."""
        self.faults.append((rules, shape, file))
        return len(self.faults) - 1

    def clean(self, *kinds: str) -> Seed:
        """A clean row of the training file, of one of these kinds, that no other fault has used."""
        while True:
            seed = self.dice.pick(self.rows[FILES[0]])
            if seed.fault is None and (not kinds or seed.kind in kinds) and id(seed) not in self._used:
                self._used.add(id(seed))
                return seed

    _used: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Corpus:
    """Rows by file, what was planted, and which lines of each file are clean."""

    rows: Mapping[str, list[Row]]
    planted: tuple[Planted, ...]
    clean: Mapping[str, frozenset[int]]
    kinds: Mapping[str, list[str]]

    def write(self, folder: Path) -> None:
        """Write the files into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for file, rows in self.rows.items():
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (folder / file).write_bytes(text.encode("utf-8"))


def grow(*, rows: int = 5000, each: int = 40, seed: int = 1) -> Corpus:
    """Return about `rows` clean training rows and a tenth as many held out, with `each` faults of every rule."""
    sown = Field(Dice(f"seeded {seed}"))
    seen: set[str] = set()
    spare = sow_clean(sown, rows, seen)
    for rule, makers in defects.BY_ITSELF.items():
        for number in range(each):
            shape, row = fresh(makers[number % len(makers)], sown.dice, seen)
            sown.sow("planted", row, fault=sown.fault((rule,), shape))
    sow_tickets(sown, each, spare)
    for copies in (sow_duplicates, sow_conflicts, sow_leaks):
        copies(sown, each)
    sow_openers(sown, rows, seen)
    return gather(sown)


def clean_corpus(*, rows: int, seed: int = 1) -> Corpus:
    """Return clean rows alone."""
    sown = Field(Dice(f"seeded {seed}"))
    sow_clean(sown, rows, set())
    return gather(sown)


def grow_long(*, rows: int, each: int, seed: int = 1) -> Corpus:
    """Return clean rows without tools, and `each` longer than small models attend to, by the answer or the question."""
    sown = Field(Dice(f"seeded {seed}"))
    sow_clean(sown, rows, set())
    for file, seeds in sown.rows.items():
        sown.rows[file] = [one for one in seeds if one.kind != "tool_call"]
    for number in range(each):
        story = " ".join(sentences(150, sown.dice))
        if number % 2:
            row, rules = chat(question(sown.dice), story), ("no-stop",)
        else:
            row, rules = chat(f"{question(sown.dice)} {story}", paragraph(sown.dice)), ("truncation",)
        sown.sow("planted", row, fault=sown.fault(rules, "a long answer" if number % 2 else "a long question"))
    return gather(sown)


def sow_clean(sown: Field, rows: int, seen: set[str]) -> list[Row]:
    """Sow the clean rows of both files; return the tickets that are left over, to be spoiled."""
    tickets = read_tickets("train")
    counts = {kind: round(share * rows) for kind, share in SHARES.items()}
    counts["tickets"] = min(counts["tickets"], len(tickets) - 200)
    held = {
        kind: round(share * rows / 10) for kind, share in SHARES.items() if kind != "trap"
    }  # traps come in few wordings
    for file, wanted, pool in ((FILES[0], counts, tickets), (FILES[1], held, read_tickets("valid"))):
        for kind, row in clean_rows(wanted, sown.dice, tickets=pool, seen=seen):
            sown.sow(kind, row, file=file)
    return tickets[counts["tickets"] :]


def sow_tickets(sown: Field, each: int, spare: list[Row]) -> None:
    """Sow tickets with broken or other than JSON answers, and broken tool calls."""
    pool = iter(spare)
    for number in range(each):
        if number % 3 == 2:
            shape, row = defects.broken_call(sown.dice)
        else:
            shape, row = defects.broken_structure(sown.dice, next(pool))
        sown.sow("planted", row, fault=sown.fault(("broken-structure",), shape))
        shape, row = defects.mixed_format(sown.dice, next(pool))
        sown.sow("planted", row, fault=sown.fault(("mixed-format",), shape))


def sow_duplicates(sown: Field, each: int) -> None:
    """Sow copies of clean rows behind them: equal ones of every kind, near ones of prose."""
    for _ in range(each):
        first = sown.clean()
        shape, row = defects.duplicate(first.row, sown.dice)
        sown.sow("planted", row, after=first.at, fault=sown.fault(("duplicate",), f"{shape}: {first.kind}"))
        first = sown.clean("prose", "conversation")
        shape, row = defects.near_duplicate(first.row, sown.dice)
        sown.sow("planted", row, after=first.at, fault=sown.fault(("near-duplicate",), shape))


def sow_conflicts(sown: Field, each: int) -> None:
    """Sow second answers to a question: short ones contradict, long ones do not. Both rows belong to the fault."""
    for number in range(each):
        if number % 3 == 0:
            asked = question(sown.dice)
            pair, shape = (chat(asked, "Yes"), chat(asked, "No")), "yes and no"
        else:
            first = sown.clean("label" if number % 3 == 1 else "tickets")
            pair, shape = (first.row, other_label(first.row, sown.dice)), first.kind
            sown.rows[FILES[0]].remove(first)
        fault = sown.fault(("conflict",), shape)
        for row in pair:
            sown.sow("planted", row, fault=fault)
        first = sown.clean("prose")
        row = defects.other_answer(first.row, paragraph(sown.dice))
        sown.sow("planted", row, after=first.at, fault=sown.fault(("several-answers",), "prose"))


def other_label(row: Row, dice: Dice) -> Row:
    """A labelled row or a ticket with another label, its question written a little differently."""
    answer = row["messages"][-1]["content"]
    if answer in LABELS:
        other = defects.other_answer(row, dice.pick([label for label in LABELS if label != answer]))
    else:
        issue = "late" if '"issue":"setup"' in answer else "setup"
        other = defects.other_answer(row, re.sub(r'"issue":"\w+"', f'"issue":"{issue}"', answer))
    asked = other["messages"][-2]
    asked["content"] = dice.pick((asked["content"], asked["content"] + " ", asked["content"].replace(" ", "  ", 1)))
    return other


def sow_leaks(sown: Field, each: int) -> None:
    """Sow held-out rows that training rows give away, whole or in a passage."""
    dice, valid = sown.dice, FILES[1]
    shapes: dict[str, Callable[[Row], Row]] = {
        "equal": lambda row: defects.duplicate(row, dice)[1],
        "almost equal": lambda row: defects.near_duplicate(row, dice)[1],
        "the same question": lambda row: defects.other_answer(row, paragraph(dice)),
        "most of the answer": lambda row: chat(
            question(dice), f"{row['messages'][-1]['content']} {sentences(1, dice)[0]}"
        ),
    }
    for number in range(each):
        shape = list(shapes)[number % len(shapes)]
        row = shapes[shape](sown.clean("prose").row)
        sown.sow("planted", row, file=valid, fault=sown.fault(("split-leak",), shape, valid))
        words = sown.clean("prose").row["messages"][-1]["content"].split()
        start = dice.below(max(1, len(words) - 20))
        passage = " ".join(words[start : start + 20])
        row = chat(question(dice), f"{paragraph(dice, 5, 6)} {passage} {paragraph(dice, 4, 5)}")
        fault = sown.fault(("shared-passage", "split-leak"), "twenty words", valid)
        sown.sow("planted", row, file=valid, fault=fault)


def sow_openers(sown: Field, rows: int, seen: set[str]) -> None:
    """Sow answers that all begin alike, and answers that were all cut at the same length."""
    dice = sown.dice
    for _ in range(round(OPENER_SHARE * rows)):
        shape, row = fresh(opening, dice, seen)
        sown.sow("planted", row, fault=sown.fault(("opener-concentration",), shape))
    for _ in range(round(PILE_SHARE * rows)):
        shape, row = fresh(cut_by_length, dice, seen)
        sown.sow("planted", row, fault=sown.fault(("length-pile-up",), shape))


def opening(dice: Dice) -> Fault:
    """An answer that begins like many others."""
    return OPENER, chat(question(dice), f"{OPENER} {paragraph(dice)}")


def cut_by_length(dice: Dice) -> Fault:
    """An answer that was cut behind as many words as others."""
    words = " ".join(sentences(24, dice)).split()[:PILE_WORDS]
    return f"{PILE_WORDS} words", chat(question(dice), " ".join(words))


def fresh(make: Callable[[Dice], Fault], dice: Dice, seen: set[str]) -> Fault:
    """A fault whose question no other row asks, where it asks anything; `seen` grows."""
    while True:
        shape, row = make(dice)
        prompt = prompt_of(row)
        if prompt not in seen or not row["messages"][0]["content"].strip("\u200b \n\t\u00a0"):
            seen.add(prompt)
            return shape, row


def gather(sown: Field) -> Corpus:
    """Return the rows in order, with the lines where each fault fell."""
    lines: dict[int, list[int]] = {}
    rows: dict[str, list[Row]] = {}
    clean: dict[str, frozenset[int]] = {}
    for file, seeds in sown.rows.items():
        seeds.sort(key=lambda seed: seed.at)
        rows[file] = [seed.row for seed in seeds]
        clean[file] = frozenset(line for line, seed in enumerate(seeds, start=1) if seed.fault is None)
        for line, seed in enumerate(seeds, start=1):
            if seed.fault is not None:
                lines.setdefault(seed.fault, []).append(line)
    planted = tuple(
        Planted(rules, shape, file, tuple(lines[number])) for number, (rules, shape, file) in enumerate(sown.faults)
    )
    kinds = {file: [seed.kind for seed in seeds] for file, seeds in sown.rows.items()}
    return Corpus(rows, planted, clean, kinds)


__all__ = ["FILES", "Corpus", "Planted", "clean_corpus", "grow", "grow_long", "prompt_of"]
