"""User turns in other words: orders, questions and problems as people put them, and edits that keep the sense."""

from __future__ import annotations

import pytest

from attune.data.augment_edits import SPARE, reworded


def variants(
    text: str, answer: str = "42", *, count: int = 40, seed: float = 0.5, said: tuple[str, ...] = ()
) -> dict[str, str]:
    """Return all variants of a text by the edits that made them."""
    made = reworded(text, answers=[answer], instructions=said, count=count, seed=seed)
    assert len({new for _, new in made} | {text}) == len(made) + 1
    return dict(made)


def test_an_order_is_put_in_other_words() -> None:
    """Every frame of an order of one sentence, as it reads."""
    made = variants("Name three fruits.")
    assert {name: text for name, text in made.items() if "," not in name} == {
        "please": "Please name three fruits.",
        "could you": "Could you name three fruits?",
        "can you please": "Can you please name three fruits?",
        "would like": "I would like you to name three fruits.",
        "need": "I need you to name three fruits.",
        "task": "Your task is to name three fruits.",
        "small letter": "name three fruits.",
        "greeting": "Hello! Name three fruits.",
        "thanks": "Name three fruits. Thank you.",
        "no final mark": "Name three fruits",
    }
    assert made["no final mark, please"] == "Please name three fruits"


@pytest.mark.parametrize(
    ("text", "edit", "new"),
    [
        ("Please describe rain. Be short.", "plain order", "Describe rain. Be short."),
        ("Could you list the planets?", "please", "Please list the planets."),
        ("Can you please list the planets?", "task", "Your task is to list the planets."),
        ("Translate into French: how are you?", "please", "Please translate into French: how are you?"),
        ("Could you translate into French: how are you?", "plain order", "Translate into French: how are you?"),
        ("Summarize the text.\n\nIt rains. I stay.", "could you", "Could you summarize the text?\n\nIt rains. I stay."),
        ("What is rain?", "tell me", "Can you tell me: what is rain?"),
        ("What is rain?", "answer this", "Please answer this question: What is rain?"),
        ("What is rain?", "no question mark", "What is rain"),
        ("My card is lost. I do not have another one.", "contraction", "My card is lost. I don't have another one."),
        ("The card wasn't here. It is lost.", "full form", "The card was not here. It is lost."),
        ("The card has gone. It is lost.", "no final mark", "The card has gone. It is lost"),
        ("Mr. Hill went home. He is there.", "line break", "Mr. Hill went home.\nHe is there."),
    ],
)
def test_an_edit_reads_well(text: str, edit: str, new: str) -> None:
    """Other edits, as they read."""
    assert variants(text)[edit] == new


def test_a_problem_is_framed_where_its_answer_is_prose() -> None:
    """What tells and then asks is a question where it is answered in words; it may be what is labelled otherwise."""
    text = "I have two apples and eat one. How many are left?"
    prose = "There were two apples and one was eaten, so one is left."
    assert variants(text, prose)["answer this"] == f"Please answer this question: {text}"
    for label in ('{"left": 1, "eaten": 1, "all": 2, "of": "the apples in this basket"}', "one"):
        assert not {"answer this", "question", "greeting"} & set(variants(text, label))


@pytest.mark.parametrize(
    "text",
    ["Order 8068 is late.", "List of fruits", "Name: Ann", "Design is hard.", "Is it?! No", "Change is good."],
)
def test_what_is_no_request_is_not_framed(text: str) -> None:
    """Statements, headings and names that begin like an order get no polite words."""
    assert all(name in {"no final mark", "wider space", "line break"} for name in variants(text))


@pytest.mark.parametrize(
    "text", ["Ich m\u00f6chte es wissen. Wann kommt es? Es ist nicht hier.", "\u6211\u60f3\u77e5\u9053\u3002"]
)
def test_other_languages_are_only_spaced(text: str) -> None:
    """Of text that is no English only spaces and the last mark change."""
    made = variants(text)
    assert made
    for name, new in made.items():
        assert name in {"no final mark", "wider space", "line break"}
        assert "".join(new.split()).rstrip(".\u3002") == "".join(text.split()).rstrip(".\u3002")


@pytest.mark.parametrize("text", ["", "  \n", "def go():\n    return 1", '{"do not": "x. Y"}'])
def test_nothing_to_reword(text: str) -> None:
    """Empty turns, code and JSON have no variants."""
    assert variants(text) == {}


def test_what_is_kept_stays_in_every_variant() -> None:
    """Code and quoted words are the same in all variants, however many edits made them."""
    code, quoted = "```python\nif not a:\n    # do not stop. Go\n    go()\n```", '"I do not know. Ask."'
    text = f"Explain the code below. It prints {quoted} and does not stop. Be brief.\n{code}"
    made = variants(text)
    assert len(made) > 10
    assert all(code in new and quoted in new for new in made.values())


def test_the_choice_is_seeded() -> None:
    """The same seed makes the same variants in the same order, another one others; rewordings come first."""
    text = "Explain why the sky is blue."
    first = reworded(text, answers=["x"], instructions=[], count=2, seed=0.25)
    assert len(first) == 2 + SPARE
    assert first == reworded(text, answers=["x"], instructions=[], count=2, seed=0.25)
    orders = {tuple(reworded(text, answers=["x"], instructions=[], count=2, seed=at / 10)) for at in range(10)}
    assert len(orders) > 5
    assert all(name != "no final mark" for made in orders for name, _ in made)
