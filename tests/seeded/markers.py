"""Texts that must not stand in rows: markup, slots, refusals, foreign answers, keys, personal data, broken characters.

Keys and numbers are drawn anew for every row, from their parts, so that no file of the project holds one.
"""

from __future__ import annotations

import base64
import json
import string

from tests.seeded.words import Dice

LOWER, UPPER, DIGITS = string.ascii_lowercase, string.ascii_uppercase, string.digits
MIXED = LOWER + UPPER + DIGITS

# A whole turn, as another program rendered it: {} is the text.
MARKUP = (
    "[INST] {} [/INST]",
    "<|im_start|>user\n{}<|im_end|>",
    "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>",
    "<start_of_turn>user\n{}<end_of_turn>",
    "### Instruction:\n{}\n\n### Response:",
    "<|user|>\n{}<|end|>\n<|assistant|>",
    "<s>{}",
    "{}</s>",
    "{}<|endoftext|>",
    "<<SYS>>\nBe brief.\n<</SYS>>\n\n{}",
    "<|begin_of_text|>{}",
    "{}<|im_end|>",
)
SLOTS = (
    "Dear {{name}}, {}",
    "I am {{ author }}'s assistant. {}",
    "{} Call [INSERT PHONE NUMBER] for more.",
    "{} Yours, [Your Name]",
    "Go to <your city> first. {}",
    "{} Lorem ipsum dolor sit amet, consectetur adipiscing elit.",
    "{} As {{company_name}} says, that is all.",
    "Hello [insert name here]. {}",
    "{} Send it to <your email address>.",
)
FILLERS = ("TODO", "TBD", "...", "nan", "<noinput>")
REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I'm sorry, but as an AI language model I cannot {}",
    "As an AI, I'm unable to give advice on that.",
    "I cannot assist with that request.",
    "Sorry, I can't provide that information. {}",
    "I apologize, but I am not able to fulfill this request. {}",
    "I'm unable to help with this. {}",
    "Unfortunately, I cannot answer that question. {}",
    "I can't comply with that request. {}",
    "As a language model, I don't have access to such things. {}",
)
MOJIBAKE = ("caf\u00e9 au lait", "na\u00efve", "the craftsman\u2019s", "\u00a3 20", "d\u00e9j\u00e0 vu", "Z\u00fcrich")


def luhn(digits: str) -> str:
    """A number with its check digit put after it, as on bank cards."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = int(digit) * (2 if place % 2 == 0 else 1)
        total += doubled - 9 if doubled > 9 else doubled
    return digits + str(-total % 10)


def iban(dice: Dice) -> str:
    """A German account number whose check digits are right."""
    account = dice.text(DIGITS, 18)
    check = 98 - int(f"{account}131400") % 97  # DE is 13 14
    return f"DE{check:02d}{account}"


def secret(dice: Dice) -> tuple[str, str]:
    """A kind of key or password, and a sentence that gives one away."""
    shapes = {
        "aws": lambda: "The access key is AKIA" + dice.text(UPPER + "234567", 16) + ".",
        "github": lambda: "Use ghp_" + dice.text(MIXED, 36) + " to push.",
        "github_pat": lambda: "My token: github_pat_" + dice.text(MIXED, 22) + "_" + dice.text(MIXED, 59),
        "openai": lambda: "export OPENAI_API_KEY=sk-" + dice.text(MIXED, 48),
        "anthropic": lambda: "The key sk-ant-api03-" + dice.text(MIXED + "-_", 92) + "A works.",
        "slack": lambda: (
            "Slack: xoxb-" + dice.text(DIGITS, 12) + "-" + dice.text(DIGITS, 12) + "-" + dice.text(MIXED, 24)
        ),
        "google": lambda: "Maps needs AIza" + dice.text(MIXED, 35) + " in the header.",
        "hub": lambda: "Log in with hf_" + dice.text(LOWER + UPPER, 34) + " first.",
        "gitlab": lambda: "glpat-" + dice.text(MIXED, 20) + " is the token.",
        "npm": lambda: "npm_" + dice.text(MIXED, 36) + " publishes it.",
        "pem": lambda: _pem(dice.text(MIXED + "+/", 64)),
        "jwt": lambda: f"Bearer {_jwt(dice)}",
        "password": lambda: 'password = "' + dice.text(MIXED + "!%&", 18) + '"',
        "assignment": lambda: "DB_SECRET=" + dice.text(MIXED, 32),
    }
    shape = dice.pick(list(shapes))
    return shape, shapes[shape]()


def _pem(body: str) -> str:
    dashes = "-" * 5  # in parts, so that no line of this project looks like a key
    return f"{dashes}BEGIN RSA PRIVATE KEY{dashes}\n{body}\n{dashes}END RSA PRIVATE KEY{dashes}"


def _jwt(dice: Dice) -> str:
    parts = ({"alg": "HS256", "typ": "JWT"}, {"sub": dice.text(DIGITS, 10)})
    coded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*coded, dice.text(MIXED, 43)])


def personal(dice: Dice) -> tuple[str, str]:
    """A kind of personal data, and a sentence with some."""
    who, digits = dice.text(LOWER, 7), dice.text(DIGITS, 14)
    card = luhn("5" + str(1 + dice.below(5)) + digits[:13])
    shapes = {
        "mail": f"Write to {who}.{dice.text(LOWER, 6)}@gmail.com about it.",
        "card": f"Her card is {luhn('4' + digits)}.",
        "iban": f"Pay to {iban(dice)}.",
        "card in fours": f"The card number: {' '.join(card[at : at + 4] for at in range(0, 16, 4))}.",
        "mail of a firm": f"Mail {who}@{dice.text(LOWER, 8)}.co.uk today.",
    }
    shape = dice.pick(list(shapes))
    return shape, shapes[shape]


def garbled(text: str, dice: Dice) -> tuple[str, str]:
    """A kind of broken character, and the text with one."""
    middle = text.find(" ", len(text) // 3)
    shapes = {
        "utf-8 read as cp1252": dice.pick(MOJIBAKE).encode().decode("cp1252"),
        "replacement": "caf\ufffd",
        "backspace": "the\x08 end",
        "vertical tab": "one\x0bmore",
        "escape": "\x1b[31mred",
        "zero width": "qu\u200biet",
    }
    shape = dice.pick(list(shapes))
    return shape, f"{text[:middle]} {shapes[shape]}{text[middle:]}"
