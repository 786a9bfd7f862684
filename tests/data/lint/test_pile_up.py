"""Answers cut at one length are found where they pile up, and only there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from attune.config import Config
from attune.data.lint.catalog import RULES, Found
from attune.data.lint.pile_up import PileUp
from attune.data.lint.thresholds import DEFAULT
from attune.data.lint.view import view
from attune.data.reading.intake import read_examples
from attune.types import Example, Message, Place
from tests.seeded.words import Dice, paragraph, sentences


def found_in(answers: Iterable[str]) -> list[Found]:
    """What is found when these answers are taken in order."""
    pile = PileUp(DEFAULT)
    for number, answer in enumerate(answers):
        messages = (Message("user", "Tell me."), Message("assistant", answer))
        pile.take(view(number, Example(Place("rows.jsonl", number + 1, 0), messages=messages)))
    return pile.found()


def whole(count: int) -> list[str]:
    """Answers of one to ten sentences, none cut."""
    dice = Dice("whole")
    return [paragraph(dice, 1, 10) for _ in range(count)]


def cut(count: int, *, words: int) -> list[str]:
    """Answers cut behind so many words."""
    dice = Dice("cut")
    return [" ".join(" ".join(sentences(30, dice)).split()[:words]) for _ in range(count)]


def test_answers_cut_at_one_number_of_words_are_found() -> None:
    """Two in a hundred answers that stop at the greatest length are named, and no other."""
    (found,) = found_in([*whole(980), *cut(20, words=150)])
    assert found.name in RULES
    assert list(found.rows) == list(range(980, 1000))
    assert "150 words" in found.detail
    assert all(text.startswith("... ") for text in found.texts.values())


def test_answers_cut_at_one_number_of_characters_are_found() -> None:
    """A limit in characters is seen as well."""
    (found,) = found_in([*whole(980), *(text[:900].rstrip(".") for text in cut(20, words=250))])
    assert set(found.rows) == set(range(980, 1000))
    assert "characters" in found.detail


@pytest.mark.parametrize(
    "answers",
    [
        whole(1000),
        [*whole(995), *cut(5, words=150)],  # half a percent
        ["refund", "repair", "refund"] * 200,  # labels
        [*whole(900), *(f"{text}." for text in cut(100, words=150))],  # all of one length, but finished
        [],
    ],
    ids=["whole", "too few", "labels", "finished", "none"],
)
def test_answers_that_a_limit_did_not_cut_are_not_found(answers: list[str]) -> None:
    """Neither few cut answers, nor labels, nor finished answers of one length are a pile."""
    assert found_in(answers) == []


def test_plain_text_may_end_anywhere() -> None:
    """Text rows are often cut to one length on purpose."""
    pile = PileUp(DEFAULT)
    for number, text in enumerate(cut(100, words=150)):
        pile.take(view(number, Example(Place("rows.jsonl", number + 1, 0), text=text)))
    assert pile.found() == []


@pytest.mark.parametrize("name", ["gsm8k_train.jsonl", "llamafactory_alpaca_en_demo.json", "gpteacher_codegen.json"])
def test_real_answers_do_not_pile_up(shared: Path, name: str) -> None:
    """Sets whose answers nobody cut at one length are clean."""
    pile = PileUp(DEFAULT)
    for number, example in enumerate(read_examples(str(shared / "data" / "sft" / name), Config().data)):
        pile.take(view(number, example))
    assert pile.found() == []
