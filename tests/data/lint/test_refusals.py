"""An answer refuses when it begins by saying that it will not or cannot; being sorry is no refusal."""

from __future__ import annotations

from pathlib import Path

import pytest

from attune.data.lint.refusals import Refusals, refusal_in
from attune.data.lint.thresholds import DEFAULT
from tests.data.lint.surveyed import read_rows, rows_of

REFUSES = (
    "I'm sorry, but I can't help with that.",
    "I\u2019m sorry, but I can\u2019t assist with that request.",
    "As an AI language model, I cannot browse the internet.",
    "As an AI, I don't have access to real-time data.",
    "I cannot assist with that request.",
    "I'm unable to provide medical advice.",
    "I won't be able to help you with this.",
    "I apologize, but I am not able to fulfil this request.",
    "Unfortunately, I cannot answer that question.",
    "I must decline to write this.",
    "Es tut mir leid, aber ich kann dir dabei nicht helfen.",
    "Je suis désolé, mais je ne peux pas répondre à cette question.",
    "Lo siento, pero no puedo ayudarte con eso.",
    "很抱歉，我无法提供这方面的信息。",
    "申し訳ありませんが、その質問にはお答えできません。",
)
ANSWERS = (
    "I'm sorry to hear that your order is late. Let me look it up for you.",
    "The importance of clean water cannot be overstated.",
    "We apologize for the delay and have sent your parcel today.",
    "A snake cannot chew, so it swallows its food whole.",
    'She said: "I can\'t find it anywhere," and went back.',
    "As an AI assistant, I can do that: first open the file.",
    "If you are unable to log in, reset your password.",
    "Of course! Here are three ideas.",
    "You won't regret a visit to the old harbour.",
    "抱歉让您久等了，您的订单已经发出。",
)


@pytest.mark.parametrize("answer", REFUSES)
def test_refusals_are_known(answer: str) -> None:
    """Refusals in several languages and spellings."""
    assert refusal_in(answer, DEFAULT.refusal_characters)


@pytest.mark.parametrize("answer", ANSWERS)
def test_answers_are_no_refusals(answer: str) -> None:
    """Sympathy, facts and quotes with the same words."""
    assert not refusal_in(answer, DEFAULT.refusal_characters)


def test_only_the_beginning_counts() -> None:
    """A long answer that ends with what it cannot do is an answer."""
    assert not refusal_in("The recipe takes an hour. " * 20 + "I'm sorry, but I can't help with the oven.", 200)


@pytest.mark.parametrize(("count", "severity"), [(2, "info"), (8, "warning")])
def test_the_share_decides_how_loud_it_is(count: int, severity: str) -> None:
    """Up to 5 % is told, above it is a warning."""
    pairs = [(f"Question {n}?", REFUSES[n % 10] if n < count else "Here is what you asked for.") for n in range(100)]
    refusals = Refusals(DEFAULT)
    for row in rows_of(pairs):
        refusals.take(row)
    (found,) = refusals.found()
    assert (found.name, found.severity, list(found.rows)) == ("refusal", severity, list(range(count)))
    assert set(found.texts) == set(found.rows)
    assert Refusals(DEFAULT).found() == []


def test_real_sets(shared: Path) -> None:
    """Two to four of a hundred alpaca answers refuse, and no maths answer does."""
    shares = {}
    for name in ("llamafactory_alpaca_en_demo.json", "gsm8k_train.jsonl"):
        rows = read_rows(shared / "data" / "sft" / name)
        shares[name] = sum(bool(refusal_in(row.answer, DEFAULT.refusal_characters)) for row in rows) / len(rows)
    assert 0.02 <= shares["llamafactory_alpaca_en_demo.json"] <= 0.04
    assert shares["gsm8k_train.jsonl"] == 0
