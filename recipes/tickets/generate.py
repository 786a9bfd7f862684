"""Write the bundled task `tickets`: customer messages and the JSON object that a careful reader would note down.

Run it with: python recipes/tickets/generate.py --out src/attune/bundled/tickets
The same seed writes the same bytes on every Python: only `random.Random.random` is used, which Python promises to keep.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

SEED = 20261122
ROWS = {"train": 1500, "valid": 200, "test": 200}
NUM_REAL = 150
MAKE = "Star"  # every product is of one make; its model, "Larkfield", and the item differ
WORDS = range(11, 31)  # of a message
KINDS = ("powered", "furniture", "clothing")
LEVELS = ("low", "normal", "high")

# What people ask for depends on what went wrong: nobody has a late parcel repaired.
ACTIONS: dict[str, dict[str, int]] = {
    "damaged": {"refund": 3, "replace": 5, "repair": 9, "call": 3},
    "faulty": {"refund": 2, "replace": 4, "repair": 11, "answer": 1, "call": 2},
    "late": {"refund": 3, "answer": 5, "cancel": 8, "call": 4},
    "missing": {"refund": 3, "replace": 8, "answer": 3, "cancel": 2, "call": 4},
    "wrong": {"refund": 4, "replace": 7, "answer": 2, "cancel": 4, "call": 3},
    "payment": {"refund": 6, "answer": 5, "cancel": 5, "call": 4},
    "size": {"refund": 5, "replace": 6, "answer": 2, "cancel": 4, "call": 3},
    "setup": {"refund": 1, "answer": 11, "cancel": 2, "call": 6},
}
ISSUES = tuple(ACTIONS)

CHOICE = re.compile(r"\{([^{}]*)\}")
SLOT = re.compile(r"<(\w+)>")
SPLIT_VERB = re.compile(r"\b([Ss]et|[Ss]etting|put|putting|plug|plugged|turns?|switch|tried) (up|together|in|on) it\b")
TAGS = re.compile(r"^\[([a-z ]+)\] ")

Item = TypeVar("Item")


class Dice(random.Random):
    """A seeded source of choices that leans on `random()` alone."""

    def below(self, limit: int) -> int:
        """A whole number from 0 to limit - 1."""
        return int(self.random() * limit)

    def pick(self, items: Sequence[Item]) -> Item:
        """One of the items, each as likely as the next."""
        return items[self.below(len(items))]

    def mix(self, items: Iterable[Item]) -> list[Item]:
        """The items in a random order."""
        return [item for _, _, item in sorted((self.random(), place, item) for place, item in enumerate(items))]

    def happens(self, share: float) -> bool:
        """True in this share of calls."""
        return self.random() < share


@dataclass(frozen=True)
class Words:
    """Every pool of one split, and the slots that all splits share."""

    brands: list[str]
    items: dict[str, list[str]]
    names: list[str]
    complaints: dict[str, list[str]]
    actions: dict[str, list[str]]
    urgency: dict[str, list[str]]
    frames: dict[str, list[str]]
    joints: list[str]
    slots: dict[str, dict[str, list[str]]]  # by kind of item; "any" holds for all
    typos: list[str]


@dataclass
class Draft:
    """A message while it is written: what its slots hold, and whether the product has been named."""

    kind: str
    product: str
    item: str  # the product without its brand, in small letters
    order: int | None
    name: str
    article: str  # "the" or "my", where the product is named with <it>
    named: bool = False
    fixed: dict[str, str] = field(default_factory=dict)


def read_yaml(name: str) -> Any:
    """The content of a word list beside this file."""
    return yaml.safe_load((Path(__file__).parent / name).read_text(encoding="ascii"))


def lines(block: str) -> list[str]:
    """The phrases of a block, one per line."""
    return [line for line in block.splitlines() if line]


def read_words(split: str) -> Words:
    """The pools of `split`: train, valid or test."""
    products, requests, frames = read_yaml("products.yaml"), read_yaml("requests.yaml"), read_yaml("frames.yaml")
    pool = products[split]
    brands = [stem + ending for stem in pool["stems"].split() for ending in pool["endings"].split()]
    brands = [brand for brand in brands if not re.search(r"(.)\1\1", brand)]  # no "Hilllight"
    plain = pool["words"].split()
    return Words(
        brands=brands + plain * max(1, len(brands) // (2 * len(plain))),  # about a third are plain words
        items={kind: re.split(r",\s*", pool[kind]) for kind in KINDS},
        names=pool["names"].split(),
        complaints={issue: lines(pools[split]) for issue, pools in read_yaml("complaints.yaml").items()},
        actions={action: lines(pools[split]) for action, pools in requests["action"].items()},
        urgency={level: lines(pools[split]) for level, pools in requests["urgency"].items()},
        frames={name: lines(pools[split]) for name, pools in frames.items() if name not in ("joint", "typos")},
        joints=frames["joint"][split],
        slots={name: pool if isinstance(pool, dict) else {"any": pool} for name, pool in products["slots"].items()},
        typos=frames["typos"].split(),
    )


def fits(phrase: str, issue: str, kind: str) -> bool:
    """Whether a phrase may be said of this kind of item by somebody with this issue."""
    tags = TAGS.match(phrase)
    if tags is None:
        return True
    if tags[1] == "arrived":
        return issue != "late"
    if tags[1] == "owned":
        return issue not in ("late", "wrong")
    return kind in tags[1].split()


def fill(phrase: str, draft: Draft, words: Words, dice: Dice) -> str:
    """The phrase with its choices made and its slots filled; names the product in `draft` if it is the first to."""
    text = TAGS.sub("", phrase)
    while CHOICE.search(text):
        text = CHOICE.sub(lambda found: dice.pick(found[1].split("|")), text, count=1)
    text = SLOT.sub(lambda found: fill_slot(found[1], draft, words, dice), text)
    text = SPLIT_VERB.sub(r"\1 it \2", text)
    return re.sub(r"(^|[.?!] )([a-z])", lambda found: found[1] + found[2].upper(), text)


def fill_slot(slot: str, draft: Draft, words: Words, dice: Dice) -> str:
    """What stands in place of <slot>."""
    if slot in ("it", "the", "a"):
        return name_product(slot, draft)
    if slot not in draft.fixed:
        draft.fixed[slot] = new_value(slot, draft, words, dice)
    return draft.fixed[slot]


def name_product(slot: str, draft: Draft) -> str:
    """The product with its article where it is first named; afterwards "it", or the item without its brand."""
    if draft.named:
        return f"the {draft.item}" if slot == "the" else "it"
    draft.named = True
    if slot == "a":
        return f"{'an' if draft.product[0] in 'AEIO' else 'a'} {draft.product}"
    return f"{draft.article if slot == 'it' else 'the'} {draft.product}"


def new_value(slot: str, draft: Draft, words: Words, dice: Dice) -> str:
    """A value for a slot that does not name the product."""
    slots = words.slots
    if slot == "order":
        return str(draft.order)
    if slot == "name":
        return draft.name
    if slot == "year":
        return str(2012 + dice.below(14))
    if slot == "date":
        day, month = 1 + dice.below(28), dice.pick(slots["month"]["any"])
        return dice.pick([f"{day} {month}", f"{month} {day}", f"{month} {day}, {2020 + dice.below(6)}"])
    if slot == "price":
        return f"{15 + dice.below(400)} {dice.pick(slots['currency']['any'])}"
    if slot == "age":
        return str(18 + dice.below(60))
    if slot == "serial":
        return str(10000 + dice.below(90000))
    if slot == "phone":
        return f"555 {1000 + dice.below(9000)}"
    if slot == "color2":
        return dice.pick([color for color in slots["color"]["any"] if color != draft.fixed.get("color")])
    pool = slots[slot]
    return dice.pick(pool["any"] if "any" in pool else pool[draft.kind])


def sentences(labels: dict[str, Any], draft: Draft, words: Words, dice: Dice) -> list[tuple[str, str]]:
    """What a message says, in order: each time the part it plays and the phrase, its slots still open."""

    def say(part: str, pool: list[str]) -> tuple[str, str]:
        return part, dice.pick([phrase for phrase in pool if fits(phrase, labels["issue"], draft.kind)])

    said = [say("complaint", words.complaints[labels["issue"]]), say("request", words.actions[labels["action"]])]
    if dice.happens(0.3):
        said.reverse()
    if labels["urgency"] != "normal":
        said.insert(dice.below(3), say("urgency", words.urgency[labels["urgency"]]))
    apart = draft.order is not None
    if dice.happens(0.12):  # a purchase comes first, and may carry the order number
        inline = apart and dice.happens(0.5)
        said.insert(0, say("purchase", words.frames["ordered" if inline else "purchase"]))
        apart = apart and not inline
    if apart:
        said.insert(dice.below(len(said) + 1), say("order", words.frames["order"]))
    if dice.happens(0.06 if draft.order is not None else 0.12):
        told = set(SLOT.findall(" ".join(phrase for _, phrase in said)))  # nobody gives the same price twice
        said.append(say("aside", [phrase for phrase in words.frames["aside"] if told.isdisjoint(SLOT.findall(phrase))]))
    if draft.name and dice.happens(0.4):
        said.insert(0, say("sender", words.frames["sender"]))
    elif draft.name or dice.happens(0.05):
        said.append(say("end", words.frames["signature" if draft.name else "closing"]))
    if dice.happens(0.05):
        said.insert(0, say("greeting", words.frames["greeting"]))
    return said


def join(parts: list[tuple[str, str]], words: Words, dice: Dice) -> str:
    """One line of text; now and then the complaint and the request that follows it become one sentence."""
    text, before = parts[0][1], parts[0][0]
    for part, sentence in parts[1:]:
        joinable = re.match("(Please|Can|Could|Would|Kindly|May|Is|Where) ", sentence)
        if (before, part) == ("complaint", "request") and joinable and text.endswith(".") and dice.happens(0.5):
            text = text[:-1] + dice.pick(words.joints) + sentence[0].lower() + sentence[1:]
        else:
            text += " " + sentence
        before = part
    return text


def roughen(text: str, draft: Draft, words: Words, dice: Dice) -> str:
    """The text as hurried people type it: some in small letters, some with a slip, most as it was."""
    chance = dice.random()
    if chance < 0.08:
        draft.product = draft.product.lower()
        return text.lower()
    if chance < 0.18:
        found = [match for match in re.finditer(r"[A-Za-z]{5,}", text) if match[0].lower() in words.typos]
        if found:
            word = dice.pick(found)
            place = word.start() + 1 + dice.below(len(word[0]) - 3)
            swapped = text[place + 1] + text[place]
            return text[:place] + (swapped if dice.happens(0.5) else text[place]) + text[place + 2 :]
    if chance < 0.22 and text[-1] in ".!":
        return text[:-1]
    return text


def new_product(issue: str, words: Words, dice: Dice) -> tuple[str, str, str]:
    """A kind of item that can have this issue, a product of that kind, and its item."""
    kinds = {"faulty": KINDS[:1], "setup": KINDS[:2]}.get(issue, KINDS)
    kind = dice.pick(kinds)
    item = dice.pick(words.items[kind])
    shown = item.title().replace(" Of ", " of ") if dice.happens(0.12) else item
    return kind, f"{MAKE} {dice.pick(words.brands)} {shown}", item


def write_row(labels: dict[str, Any], words: Words, dice: Dice) -> dict[str, str]:
    """One row: the message and its answer, with these labels."""
    while True:
        kind, product, item = new_product(labels["issue"], words, dice)
        digits = 4 + dice.below(3)
        draft = Draft(
            kind=kind,
            product=product,
            item=item,
            order=10 ** (digits - 1) + dice.below(9 * 10 ** (digits - 1)) if labels["ordered"] else None,
            name=dice.pick(words.names) if dice.happens(0.15) else "",
            article="my" if dice.happens(0.35) else "the",
        )
        parts = [(part, fill(phrase, draft, words, dice)) for part, phrase in sentences(labels, draft, words, dice)]
        text = roughen(join(parts, words, dice), draft, words, dice)
        if len(text.split()) in WORDS and draft.product in text:
            break
    answer = {
        "product": draft.product,
        "issue": labels["issue"],
        "urgency": labels["urgency"],
        "action": labels["action"],
        "order": draft.order,
    }
    return {"prompt": text, "completion": json.dumps(answer, separators=(",", ":"))}


def deal_labels(count: int, dice: Dice) -> list[dict[str, Any]]:
    """The labels of `count` rows: issues and urgencies in equal shares, three rows in five with an order number."""
    rows: list[dict[str, Any]] = []
    for place in range(count):
        issue = ISSUES[place % len(ISSUES)]
        wishes = [action for action, weight in ACTIONS[issue].items() for _ in range(weight)]
        turn = place // len(ISSUES)
        rows.append(
            {
                "issue": issue,
                "action": dice.pick(wishes),
                "urgency": LEVELS[turn % len(LEVELS)],
                "ordered": dice.happens(0.6),
            }
        )
    return dice.mix(rows)


def write_split(split: str, count: int, seed: int) -> list[dict[str, str]]:
    """The rows of a split; no two have the same message or, outside training, the same product."""
    dice, words = Dice(f"{seed} {split}"), read_words(split)
    rows: list[dict[str, str]] = []
    seen: set[str] = set()
    for labels in deal_labels(count, dice):
        while True:
            row = write_row(labels, words, dice)
            product = json.loads(row["completion"])["product"].lower()
            if product not in seen:
                break
        seen.add(product)
        rows.append(row)
    return rows


def write_real(count: int, seed: int) -> list[dict[str, str]]:
    """Prompts in the manner of a chat channel, without answers."""
    dice, chat = Dice(f"{seed} real"), read_yaml("chat.yaml")
    openings, matters, tails = lines(chat["opening"]), lines(chat["matter"]), lines(chat["tail"])
    texts: list[str] = []
    while len(texts) < count:
        text = matters[len(texts) % len(matters)]
        while CHOICE.search(text):
            text = CHOICE.sub(lambda found: dice.pick(found[1].split("|")), text, count=1)
        if dice.happens(0.5):
            text = f"{dice.pick(openings)} {text}"
        if dice.happens(0.6):
            text = f"{text} {dice.pick(tails)}"
        if text not in texts:
            texts.append(text)
    return [{"prompt": text} for text in dice.mix(texts)]


def write_files(out: Path, seed: int = SEED) -> None:
    """Write the four data files into the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for split, count in ROWS.items():
        write_lines(out / f"{split}.jsonl", write_split(split, count, seed))
    write_lines(out / "real_prompts.jsonl", write_real(NUM_REAL, seed))


def write_lines(path: Path, rows: list[dict[str, str]]) -> None:
    """Write one JSON object per line, the same bytes on every system."""
    path.write_bytes("".join(json.dumps(row) + "\n" for row in rows).encode("ascii"))


def main() -> None:
    """Read the command line and write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the four .jsonl files")
    parser.add_argument("--seed", type=int, default=SEED, help="another seed writes another data set")
    chosen = parser.parse_args()
    write_files(chosen.out, chosen.seed)


if __name__ == "__main__":
    main()
