"""Too many answers with the same first words are named; formats, labels and echoes of the question are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from attune.data.lint.openers import Openers, opener_of
from attune.data.lint.thresholds import DEFAULT
from tests.data.lint.surveyed import read_rows, rows_of

NOUNS = ("river", "harbour", "lantern", "orchard", "violin", "glacier", "market", "engine", "cellar", "meadow")


def openers_of(pairs: list[tuple[str, str]]) -> Openers:
    """What has been counted over such questions and answers."""
    openers = Openers(DEFAULT)
    for row in rows_of(pairs):
        openers.take(row)
    return openers


def varied(count: int) -> list[tuple[str, str]]:
    """Answers that all begin otherwise."""
    return [
        (
            f"Tell me of {n}.",
            f"{NOUNS[n % 10].title()} {NOUNS[n // 10 % 10]} {n} was known to all who lived there then.",
        )
        for n in range(count)
    ]


def with_opener(opener: str, share: float) -> list[tuple[str, str]]:
    """300 rows of which a share begin with some words."""
    pairs = varied(300)
    return [(q, f"{opener} {a}") if n < 300 * share else (q, a) for n, (q, a) in enumerate(pairs)]


def test_a_filler_in_seven_of_a_hundred_answers_is_a_warning() -> None:
    """The words, the count and the share are told, and the rows are named."""
    (found,) = openers_of(with_opener("Sure, I'd be glad to.", 22 / 300)).found()
    assert (found.name, found.severity, list(found.rows)) == ("opener-concentration", "warning", list(range(22)))
    assert '22 of 300 answers (7.3%) begin with "sure"' in found.detail


def test_a_filler_in_a_third_of_the_answers_is_an_error_and_other_words_are_not() -> None:
    """Only words that say nothing stop a training; a house style may be meant."""
    assert openers_of(with_opener("Certainly! Here you go:", 0.3)).found()[0].severity == "error"
    assert openers_of(with_opener("Dear reader, welcome.", 0.3)).found()[0].severity == "warning"
    assert openers_of(with_opener("当然可以，", 0.3)).found()[0].severity == "error"


def test_a_filler_counts_in_all_its_forms() -> None:
    """Sure with a comma, a mark or a dash is one habit, though no three words come often."""
    pairs = varied(300)
    for n in range(30):
        pairs[n] = (pairs[n][0], f"Sure! {pairs[n][1]}")
    (found,) = openers_of(pairs).found()
    assert list(found.rows) == list(range(30))


def test_few_alike_and_few_rows_are_nothing() -> None:
    """Four of a hundred are usual, and so is anything in a handful of rows."""
    assert openers_of(with_opener("Sure, I can.", 0.04)).found() == []
    assert openers_of([(q, f"Sure, {a}") for q, a in varied(9)]).found() == []


def test_an_opener_that_takes_up_the_question_is_no_habit() -> None:
    """What is asked in the same words is answered in the same words."""
    asked = [
        (f"What is the output of program {n}?", f"The output of this program is the number {n} in a line.")
        for n in range(200)
    ]
    assert openers_of(asked).found() == []
    other = [(f"Run program {n}.", answer) for n, (_, answer) in enumerate(asked)]
    assert len(openers_of(other).found()[0].rows) == 200


@pytest.mark.parametrize(
    "answer",
    [
        '{"product": "a", "issue": "b", "urgency": "c", "action": "d", "order": 1}',
        "positive",
        "Yes, it does.",
        "import os\nimport sys\nprint(os.getcwd(), sys.argv, 'and some more words here')",
        "```python\nprint('a b c d e f g h i j')\n```",
        "<a>one two three four five six seven eight nine</a>",
        "",
    ],
)
def test_formats_and_short_answers_have_no_opener(answer: str) -> None:
    """JSON, XML, code, labels and short answers begin as they must."""
    assert opener_of(answer, DEFAULT) == ""


def test_words_are_counted_in_every_script() -> None:
    """Signs around words do not matter, and CJK characters are words."""
    assert opener_of("**Sure**, I'd be glad to help you with all of that.", DEFAULT) == "sure i'd be"
    assert opener_of("Sure, I\u2019d be glad to help you with all of that.", DEFAULT) == "sure i'd be"
    assert opener_of("您好，我是一个人工智能助手，很高兴认识您。", DEFAULT) == "您 好 我"


def test_the_table_lists_the_commonest_first() -> None:
    """The table has true counts and shares of the judged answers."""
    table = openers_of(with_opener("Dear old reader,", 0.5)).table()
    assert table[0] == ("dear old reader", 150, 0.5)
    assert len(table) == 20
    assert Openers(DEFAULT).table() == []


def test_counts_stay_true_when_rare_openers_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory of few openers loses rare ones and miscounts none."""
    monkeypatch.setattr("attune.data.lint.openers.MOST_KNOWN", 50)
    openers = openers_of(varied(400) + with_opener("Dear old reader,", 0.5))
    assert openers.table()[0][:2] == ("dear old reader", 150)


@pytest.mark.parametrize("name", ["gsm8k_train.jsonl", "llamafactory_alpaca_en_demo.json", "gpteacher_codegen.json"])
def test_real_sets_have_no_finding(shared: Path, name: str) -> None:
    """Sets in which no opener comes often have none named."""
    openers = Openers(DEFAULT)
    for row in read_rows(shared / "data" / "sft" / name):
        openers.take(row)
    assert openers.found() == []
