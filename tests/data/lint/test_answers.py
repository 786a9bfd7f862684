"""Answers that are cut off."""

from __future__ import annotations

from pathlib import Path

import pytest

from attune.data.lint.answers import find_cut
from attune.data.lint.thresholds import DEFAULT
from tests.data.lint.surveyed import read_rows

SAID = (
    "A river begins where water gathers. It flows down the hills and takes up brooks on its way. "
    "In the plain it grows slow and wide. Towns stand on its banks, for it gives water and carries ships. "
)

CUT = (
    SAID + "At its mouth it leaves behind the sand and the mud that it has carried along from the",
    SAID + "At its mouth it leaves behind the sand, the mud and much else that it has carried,",
    SAID + "At its mouth it leaves behind the sand and the mud that it has carr",
    SAID + "\n\nHere is how to measure it:\n\n```python\ndef depth(at):\n    return sound(at)",
    f"{SAID}\n\n{SAID}\n\nThis is because of",
    f"{SAID}\n\n1. Look at the map.\n2. Follow the river.\n3.",
    "<!DOCTYPE html>\n<html>\n<body>\n<p>One</p>\n<p>Two</p>\n<p>It is absolutely",
)
WHOLE = (
    SAID,
    SAID + "See https://docs.example.org/a/long/page/about-rivers/and-their-way-to-the-sea",
    SAID + "\n\nBest regards,\nThe River Watch",
    SAID + "\n\nWith many thanks and all our warmest wishes from the river bank,",
    "Where the river bends and sways\nThere I spent my summer days\nListening to its gentle song\n" * 4
    + "All day long",
    "A: Shall we go to the river today or not\nB: I do not know yet\n" * 4 + "A: Then let us wait and see how it is",
    SAID + "\n\n- deep water\n- slow water\n- a very wide bank with reeds",
    SAID + "\n\n```python\nprint(1)\n```",
    "Too short to be judged, as a label or a title is, and so it",
    "import os\n"
    + "\n".join(f"value_{at} = read(path_{at}, mode_{at}, size_{at})" for at in range(12))
    + "\nprint value",
    "\u6cb3\u306f\u5c71\u304b\u3089\u6d77\u3078\u6d41\u308c\u308b " * 45,
)


@pytest.mark.parametrize("answer", CUT)
def test_cut_answers_are_found(answer: str) -> None:
    """In the middle of a sentence or word, after a comma, in a block of code, in a list, in a page."""
    assert find_cut(answer, DEFAULT)


@pytest.mark.parametrize("answer", WHOLE)
def test_whole_answers_are_let_be(answer: str) -> None:
    """Addresses, farewells, verses, chat, lists, code, short texts and scripts without full stops are whole."""
    assert find_cut(answer, DEFAULT) is None


def test_end_is_shown() -> None:
    """The finding shows the last words."""
    assert str(find_cut(CUT[0], DEFAULT)).endswith("that it has carried along from the")


def test_alpaca_answers_that_are_really_cut(shared: Path) -> None:
    """Ten of 999 answers are cut (the generator stopped at 512 tokens); each was looked at, none else is named.

    3912 may be read as a whole sentence without its full stop; its length says that it is cut as well.
    """
    rows = read_rows(shared / "data" / "sft" / "llamafactory_alpaca_en_demo.json")
    cut = {row.example.place.line for row in rows if find_cut(row.answer, DEFAULT)}
    assert cut == {622, 897, 1347, 1727, 2317, 2792, 3442, 3652, 3912, 4492}
