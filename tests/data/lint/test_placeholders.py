"""Slots that nobody filled."""

from __future__ import annotations

from pathlib import Path

import pytest

from attune.data.lint.placeholders import find_placeholder
from tests.data.lint.surveyed import read_rows

UNFILLED = (
    "I am {{name}}, made by {{ company_name }}.",
    "Dear [INSERT NAME], hello.",
    "Call <your phone number> now.",
    "Call [Your Company] now.",
    "The price is $[INSERT PRICE].",
    "Hi {name}, welcome.",
    "Your order {{order.id}} is late.",
    "Lorem ipsum dolor sit amet, consectetur",
    "TODO",
    "TBD.",
    "...",
    "\u2026",
    "nan",
    "<noinput>",
    "[Your answer here]",
    "TODO: write this",
    "Answer goes here",
    "<answer>",
    "to be added later",
    '{"product": "{{product}}", "order": 1}',
)
FILLED = (
    ("\\frac{{a}}{{b}} and x^{{n}}", "What is it?"),
    ("```\nHello {{ name }}\n```", "What is it?"),
    ("use `{{ name }}` there", "What is it?"),
    ('name = "Ann"\nprint(f"Hello {name}")', "What is it?"),
    ("Best regards,\n[Your Name]", "Write an email to my boss."),
    ("Hello {{name}}", "Translate: Bonjour {{name}}"),
    ("{{ item.title }} shows it.", "How do I show a title in a Jinja template?"),
    ("See [Your guide](https://docs.example.org/x)", "What is it?"),
    ("${{ secrets.TOKEN }}", "What is it?"),
    ("std::vector m = {{1, 2}, {3, 4}}", "What is it?"),
    ("[Enter Hamlet]", "What happens in the play?"),
    ("A TODO list helps.", "What is it?"),
    ("She waited...", "What is it?"),
    ("the set {a, b}", "What is it?"),
    ("No", "Is it?"),
    ("TODO", "Which word marks open work: TODO or DONE?"),
)


@pytest.mark.parametrize("answer", UNFILLED)
def test_unfilled_slots_are_found(answer: str) -> None:
    """Braces, brackets, angle brackets, filler text, and answers that are a filler."""
    assert find_placeholder(answer, "What is the total?")


@pytest.mark.parametrize(("answer", "question"), FILLED)
def test_slots_that_are_wanted_are_let_be(answer: str, question: str) -> None:
    """Code, formulas, and slots that the question holds or asks for."""
    assert find_placeholder(answer, question) is None


def test_identity_rows(shared: Path) -> None:
    """85 of 91 rows say {{name}} or {{author}}."""
    rows = read_rows(shared / "data" / "sft" / "llamafactory_identity.json")
    seen = [found for row in rows if (found := find_placeholder(row.answer, row.question))]
    assert len(rows) == 91
    assert len(seen) == 85
    assert set(", ".join(seen).split(", ")) == {"{{name}}", "{{author}}"}
