"""Words and sentences for made-up rows: a small grammar whose sentences hardly ever come twice."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import yaml

Item = TypeVar("Item")

LINES = ("time", "statement", "question", "follow_up", "message", "foreign")  # one phrase a line
SLOT = re.compile(r"<(\w+?)(2?)>")


def read_pools() -> dict[str, list[str]]:
    """The word lists beside this file, by name."""
    blocks = yaml.safe_load((Path(__file__).parent / "words.yaml").read_text(encoding="utf-8"))
    return {name: block.rstrip().split("\n") if name in LINES else block.split() for name, block in blocks.items()}


POOLS = read_pools()


class Dice(random.Random):
    """A seeded source of choices that leans on `random()` alone, which gives the same numbers on every Python."""

    def below(self, limit: int) -> int:
        """A whole number from 0 to limit - 1."""
        return int(self.random() * limit)

    def pick(self, items: Sequence[Item]) -> Item:
        """One of the items, each as likely as the next."""
        return items[self.below(len(items))]

    def mix(self, items: Iterable[Item]) -> list[Item]:
        """The items in a random order."""
        return [item for _, _, item in sorted((self.random(), place, item) for place, item in enumerate(items))]

    def text(self, alphabet: str, length: int) -> str:
        """So many characters of an alphabet."""
        return "".join(self.pick(alphabet) for _ in range(length))


def slot(name: str, dice: Dice) -> str:
    """A filling for a slot; a capital letter asks for one."""
    if name[0].isupper():
        filled = slot(name.lower(), dice)
        return filled[0].upper() + filled[1:]
    if name == "place":
        return dice.pick(POOLS["stem"]) + dice.pick(POOLS["ending"])
    if name == "num":
        return str(20 + dice.below(900))
    if name == "year":
        return str(1700 + dice.below(300))
    return dice.pick(POOLS[name])


def fill(frame: str, dice: Dice) -> str:
    """A frame with every slot filled."""
    text = SLOT.sub(lambda found: slot(found[1], dice), frame)
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


def sentences(count: int, dice: Dice) -> list[str]:
    """So many statements, no two of one frame next to each other."""
    frames = dice.mix(POOLS["statement"])[:count]
    while len(frames) < count:
        frames += dice.mix(POOLS["statement"])[: count - len(frames)]
    return [fill(frame, dice) for frame in frames]


def question(dice: Dice) -> str:
    """Something to ask."""
    return fill(dice.pick(POOLS["question"]), dice)


def paragraph(dice: Dice, least: int = 4, most: int = 9) -> str:
    """Some sentences in a row, now and then in two paragraphs."""
    said = sentences(least + dice.below(most - least + 1), dice)
    cut = 2 + dice.below(len(said) - 2) if len(said) > 4 and dice.random() < 0.4 else len(said)
    return "\n\n".join(" ".join(part) for part in (said[:cut], said[cut:]) if part)
