"""The format of an answer is told by its form alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from attune.data.lint.formats import classify, json_in, read
from tests.data.lint.surveyed import read_rows

KNOWN = {
    '{"a": 1}': "json",
    "[1, 2, 3]": "json",
    '{"a": 1}\n{"a": 2}\n': "json",
    '{"a": 1,}': "json",
    "{'a': 1}": "json",
    "{{name}} will call you.": "plain",
    "{x | x > 3} is the set of all numbers above three.": "plain",
    "[Music plays] The curtain rises.": "plain",
    '```json\n{"a": 1}\n```': "fenced json",
    '```\n[{"a": 1}]\n```': "fenced json",
    "```python\nprint(1)\n```": "code",
    "Do this:\n\n```python\nprint(1)\n```\n\nThen wait.": "markdown",
    "<order><id>3</id></order>": "xml",
    "<think>short</think>\n<answer>42</answer>": "xml",
    "<p>Some HTML</p>": "plain",
    "name: Ann\nage: 30\ntags:\n  - a\n  - b": "yaml",
    "Anna: Hello.\nBen: Hi there.\nAnna: Bye.": "plain",
    "W: I am late.\n\nM: It does not matter.": "plain",
    "| a | b |\n|---|---|\n| 1 | 2 |": "table",
    "id,name,age\n1,Ann,30\n2,Ben,31": "table",
    "def f(x):\n    return x + 1\n\nprint(f(2))": "code",
    "SELECT name FROM people WHERE age > 3;": "code",
    "# Title\n\nSome words.\n\n- one\n- two": "markdown",
    "1. Beat the eggs.\n2. Add the flour.": "markdown",
    "positive": "label",
    "card_arrival": "label",
    "77.0 F": "label",
    "It is late.": "plain",
    "The sun rose slowly over the hills, and nobody was awake to see it.": "plain",
    "": "plain",
}


@pytest.mark.parametrize("answer", KNOWN)
def test_formats_are_told_apart(answer: str) -> None:
    """Each kind of answer is called what it is; what only begins like JSON is no JSON."""
    assert classify(answer) == KNOWN[answer]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ('{"a": 1, "b": 2}', ""),
        ('{"a": 1,}', 'a comma before "}"'),
        ('{"a": 1', "ends before its JSON does"),
        ("{'a': 1}", "single quotes"),
        ('{"a": 1} Done.', "more text after the JSON"),
        ('{"a": 1, "b": {"c": 2, "c": 3}}', 'the key "c" twice'),
        ('{"a": "say \\"x\\": y", "b": 2}', ""),
        ('```json\n{"a": 1,}\n```', 'a comma before "}"'),
        ("<one><two>1</one></two>", "</one> closes another tag"),
        ("<one><two/>1</one>", ""),
    ],
)
def test_a_broken_answer_says_what_is_broken(answer: str, said: str) -> None:
    """The fault names what breaks the format, and whole answers have none."""
    fault = read(answer).fault
    assert fault.startswith(said) if said else not fault


def test_deep_json_is_read() -> None:
    """JSON a thousand levels deep neither stops the program nor counts as broken."""
    text = '{"a":' * 900 + "1" + "}" * 900
    assert read(text).format == "json"
    assert not read(text).fault


def test_json_within_words_is_noticed() -> None:
    """An answer that holds an object between words was meant to be JSON; a sentence with a colon was not."""
    assert json_in('Here it is: {"order": 3, "issue": "late"}')
    assert json_in('"order": 3, "issue": "late"}')
    assert not json_in('He said "wait": nobody did.')


def test_real_sets_have_the_formats_they_have(shared: Path) -> None:
    """Labels are labels, code is code and JSON attempts in sets without JSON do not exist."""
    folder = shared / "data" / "sft"
    labels = Counter(
        classify(row.answer) for row in read_rows(folder / "banking77_train.csv", prompt="text", completion="category")
    )
    assert set(labels) == {"label"}
    code = Counter(classify(row.answer) for row in read_rows(folder / "gpteacher_codegen.json"))
    assert code["code"] > 0.9 * code.total()
    maths = Counter(classify(row.answer) for row in read_rows(folder / "gsm8k_train.jsonl"))
    assert maths["markdown"] + maths["plain"] > 0.99 * maths.total()
