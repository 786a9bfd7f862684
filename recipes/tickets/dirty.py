"""Write `tickets_dirty.jsonl`: rows of the bundled task with faults planted among them, and the list of the faults.

Run it with: python recipes/tickets/dirty.py --out src/attune/bundled/tickets
Some faults show only beside another file: leaks with `data.valid` = valid.jsonl, over-long rows with a model.
"""

from __future__ import annotations

import argparse
import base64
import json
from pathlib import Path
from typing import Any

from generate import Dice, read_yaml

SEED = 20261123
CLEAN = 240
TICKETS = Path(__file__).resolve().parents[2] / "src" / "attune" / "bundled" / "tickets"
Row = dict[str, Any]

TEXTS: dict[str, Any] = read_yaml("dirty.yaml")


def read_rows(split: str) -> list[Row]:
    """The rows of a split that generate.py has written."""
    return [json.loads(line) for line in (TICKETS / f"{split}.jsonl").read_text(encoding="ascii").splitlines()]


def fields(row: Row) -> Row:
    """The answer of a row, parsed."""
    parsed: Row = json.loads(row["completion"])
    return parsed


def compact(value: Any) -> str:
    """JSON as the task writes it."""
    return json.dumps(value, separators=(",", ":"))


def turns(*said: tuple[str, str]) -> list[Row]:
    """Messages from (role, content) pairs."""
    return [{"role": role, "content": content} for role, content in said]


def luhn(digits: str) -> str:
    """A number with the check digit of bank cards put after it."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = int(digit) * (2 if place % 2 == 0 else 1)
        total += doubled - 9 if doubled > 9 else doubled
    return digits + str(-total % 10)


def iban(account: str) -> str:
    """A German account number with right check digits; `account` has 18 digits."""
    return f"DE{98 - int(f'{account}131400') % 97:02d}{account}"  # the letters DE count as 13 14


def spoil_prompts(row: Row, dice: Dice) -> dict[str, list[tuple[str, Row]]]:
    """Faults in what is asked, by rule: shape and faulty row. Every call spoils the same row in all ways."""
    asked, answer = row["prompt"], row["completion"]
    letters = "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"

    def drawn(alphabet: str, length: int) -> str:
        return "".join(dice.pick(alphabet) for _ in range(length))

    def asking(text: Any) -> Row:
        return {"prompt": text, "completion": answer}

    token = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').decode()
    token += "." + base64.urlsafe_b64encode(json.dumps({"sub": drawn("0123456789", 10)}).encode()).decode().rstrip("=")
    dash = "-" * 5
    story = " ".join(f"On day {day} I wrote to {dice.below(900)} people about it." for day in range(1, 160))
    return {
        "template-in-content": [
            ("[INST]", asking(f"[INST] {asked} [/INST]")),
            ("<|im_start|>", asking(f"<|im_start|>user\n{asked}<|im_end|>")),
            ("### Instruction:", asking(f"### Instruction:\n{asked}\n\n### Response:")),
            ("<start_of_turn>", asking(f"<start_of_turn>user\n{asked}<end_of_turn>")),
            ("</s> after the answer", {"prompt": asked, "completion": answer + "</s>"}),
        ],
        "role-order": [
            ("two questions in a row", asking(turns(("user", "Hello there."), ("user", asked)))),
            ("a result without a call", asking(turns(("user", asked), ("tool", '{"found": 1}')))),
            ("an answer first", asking(turns(("assistant", "Good day."), ("user", asked)))),
            ("system in the middle", asking(turns(("user", asked), ("system", "Answer in JSON.")))),
        ],
        "empty-prompt": [("nothing", asking("")), ("a space", asking(" ")), ("a line break", asking("\n"))],
        "secret": [
            ("aws", asking(f"{asked} The key is AKIA{drawn('ABCDEFGHIJKLMNOPQRSTUVWXYZ234567', 16)}.")),
            ("password", asking(f'{asked} password = "{drawn(letters, 16)}"')),
            ("jwt", asking(f"{asked} Bearer {token}.{drawn(letters, 43)}")),
            (
                "pem",
                asking(f"{asked}\n{dash}BEGIN PRIVATE KEY{dash}\n{drawn(letters, 64)}\n{dash}END PRIVATE KEY{dash}"),
            ),
        ],
        "personal-data": [
            ("mail", asking(f"{asked} Write to {drawn(letters[:24], 7)}.{drawn(letters[:24], 6)}@gmail.com.")),
            ("card", asking(f"{asked} I paid with card {luhn('4' + drawn('0123456789', 14))}.")),
            ("iban", asking(f"{asked} My account is {iban(drawn('0123456789', 18))}.")),
        ],
        "broken-characters": [
            ("utf-8 read as cp1252", asking(f"{asked} It stood in the caf\u00c3\u00a9.")),
            ("quotes read as cp1252", asking(f"{asked} It\u00e2\u20ac\u2122s a pity.")),
            ("replacement", asking(f"{asked} It stood in the caf\ufffd.")),
            ("backspace", asking(f"{asked} So\x08rry.")),
            ("zero width", asking(f"{asked} Tha\u200bnks.")),
        ],
        "truncation": [("a long story", asking(f"{asked} {story}"))],
    }


def spoil_answers(row: Row, dice: Dice) -> dict[str, list[tuple[str, Row]]]:
    """Faults in the answer, by rule: shape and faulty row."""
    told, text = fields(row), row["completion"]
    reply = TEXTS["reply"].format(product=told["product"])

    def answering(answer: str) -> Row:
        return {"prompt": row["prompt"], "completion": answer}

    return {
        "broken-structure": [
            ("comma at the end", answering(text[:-1] + ",}")),
            ("cut", answering(text[:-12])),
            ("single quotes", answering(text.replace('"', "'"))),
            ("key twice", answering('{"issue":"setup",' + text[1:])),
            ("number as text", answering(compact({**told, "order": str(4000 + dice.below(5000))}))),
            ("field missing", answering(compact({key: told[key] for key in told if key != "urgency"}))),
            ("field of another kind", answering(compact({**told, "product": {"name": told["product"]}}))),
            ("fenced", answering(f"```json\n{text}\n```")),
        ],
        "mixed-format": [
            ("yaml", answering("\n".join(f"{key}: {value}" for key, value in told.items()))),
            ("prose", answering(f"The customer has a {told['product']} and wants us to {told['action']} it.")),
            ("xml", answering("<ticket>" + "".join(f"<{key}>{told[key]}</{key}>" for key in told) + "</ticket>")),
            ("list", answering("\n".join(f"- **{key}**: {value}" for key, value in told.items()))),
        ],
        "placeholder": [
            ("{{product}}", answering(text.replace(told["product"], "{{product}}"))),
            ("[INSERT ...]", answering(text.replace(told["product"], "[INSERT PRODUCT]"))),
            ("<your ...>", answering(text.replace(told["product"], "<your product>"))),
            ("TODO", answering("TODO")),
            ("lorem ipsum", answering(text.replace(told["product"], "Lorem ipsum dolor sit amet"))),
        ],
        "empty-answer": [("nothing", answering("")), ("a space", answering(" "))],
        "truncated-answer": [("in the middle of a sentence", answering(text)) for text in TEXTS["cut"]],
        "language": [("another language", answering(text)) for text in TEXTS["foreign"]],
        "refusal": [("refuses", answering(text)) for text in TEXTS["refusal"]],
        "opener-concentration": [("Sure, I can", answering(reply))] * 24,
    }


def copies(clean: list[Row], valid: list[Row]) -> dict[str, list[tuple[str, Row]]]:
    """Rows that repeat or contradict a clean row of this file, or repeat a held-out row."""

    def swapped(row: Row, old: str, new: str) -> Row:
        assert old in row["prompt"], (old, row["prompt"])
        return {**row, "prompt": row["prompt"].replace(old, new, 1)}

    def relabelled(row: Row) -> Row:
        told = fields(row)
        return {**row, "completion": compact({**told, "action": "call" if told["action"] != "call" else "refund"})}

    def longest(rows: list[Row]) -> list[Row]:
        return sorted(rows, key=lambda row: -len(row["prompt"].split()))

    long, held = longest(clean), longest(valid)
    last = [row["prompt"].split()[-1] for row in (*long[:4], held[1])]
    return {
        "duplicate": [
            ("equal", clean[5]),
            ("equal", clean[17]),
            ("capitals", {**clean[29], "prompt": clean[29]["prompt"].upper()}),
            ("spaces", {**clean[41], "prompt": clean[41]["prompt"].replace(" ", "  ")}),
        ],
        "near-duplicate": [("the last word differs", swapped(long[at], last[at], "indeed.")) for at in range(4)],
        "conflict": [("another action", relabelled(clean[at])) for at in (53, 67, 71, 78)],
        "split-leak": [
            ("equal", held[0]),
            ("the last word differs", swapped(held[1], last[4], "indeed.")),
            ("another action", relabelled(held[2])),
            ("capitals", {**held[3], "prompt": held[3]["prompt"].lower()}),
        ],
    }


def plant(seed: int) -> tuple[list[Row], list[Row]]:
    """The rows of the file, and the faults: rule, shape and line (from 1) of each."""
    dice = Dice(f"{seed} dirty")
    train, valid = (read_rows(split) for split in ("train", "valid"))
    clean, spare = train[:CLEAN], iter(train[CLEAN:])
    faulty: list[tuple[str, str, Row]] = []

    # every fault gets a row of its own: what is spoiled twice would be a duplicate as well
    for spoil in (spoil_prompts, spoil_answers):
        for rule, shapes in spoil(train[-1], dice).items():
            for at in range(len(shapes)):
                shape, row = spoil(next(spare), dice)[rule][at]
                faulty.append((rule, shape, row))
    for rule, shapes in copies(clean[: CLEAN // 3], valid).items():
        faulty.extend((rule, shape, row) for shape, row in shapes)
    # a copy must come behind its first, so faults fall into the last two thirds and copied rows stay in front
    places = sorted(CLEAN // 3 + dice.below(CLEAN - CLEAN // 3) for _ in faulty)
    return lay(clean, dice.mix(faulty), places)


def lay(clean: list[Row], faulty: list[tuple[str, str, Row]], places: list[int]) -> tuple[list[Row], list[Row]]:
    """The clean rows with the faulty ones between them: fault number i stands behind `places[i]` clean rows."""
    rows: list[Row] = []
    planted: list[Row] = []
    done = 0
    for place, (rule, shape, row) in zip(places, faulty, strict=True):
        rows += clean[done:place]
        done = place
        rows.append(row)
        planted.append({"rule": rule, "shape": shape, "line": len(rows)})
    rows += clean[done:]
    return rows, sorted(planted, key=lambda fault: (fault["rule"], fault["line"]))


def main() -> None:
    """Read the command line and write the two files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for tickets_dirty.jsonl and its list of faults")
    parser.add_argument("--seed", type=int, default=SEED, help="another seed plants elsewhere")
    chosen = parser.parse_args()
    rows, planted = plant(chosen.seed)
    chosen.out.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (chosen.out / "tickets_dirty.jsonl").write_bytes(lines.encode("ascii"))
    listed = ",\n".join(json.dumps(fault) for fault in planted)
    (chosen.out / "tickets_dirty_planted.json").write_bytes(f"[\n{listed}\n]\n".encode("ascii"))


if __name__ == "__main__":
    main()
