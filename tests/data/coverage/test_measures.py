"""What a data set covers, on small sets whose figures can be worked out by hand, and on real ones."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from attune.data.coverage.measures import Coverage, effective_clusters, word_counts
from attune.data.coverage.wording import compression_ratio, distinct_shares, one_sided, split_words
from attune.data.lint.thresholds import DEFAULT, Thresholds
from attune.data.lint.view import RowView, view
from attune.types import Example, Message, Place


def row(number: int, question: str, answer: str, **more: object) -> RowView:
    """Return a row of one question and one answer."""
    messages = (Message("user", question), Message("assistant", answer))
    return view(number, Example(Place("rows.jsonl", number + 1, 0), messages, **more))  # type: ignore[arg-type]


def cover(rows: Sequence[RowView], thresholds: Thresholds = DEFAULT) -> Coverage:
    """Return the coverage of some rows."""
    coverage = Coverage(thresholds)
    for each in rows:
        coverage.take(each)
    return coverage


def test_counts_of_all_rows() -> None:
    """Turns, system prompts, tools and word counts are those of the rows."""
    chat = (Message("system", "Be kind."), Message("user", "a b"), Message("assistant", "c"), Message("user", "d e f"))
    rows = [
        row(0, "one two three", "four"),
        row(1, "one two", "four five six", tools=({"name": "clock"},)),
        view(2, Example(Place("x", 3, 0), (*chat, Message("assistant", "g h")))),
        view(3, Example(Place("x", 4, 0), text="plain text of five words")),
    ]
    document = cover(rows).document(formats={"plain": 4}, openers=[["Sure", 2]])
    assert document["rows"] == document["sampled"] == 4
    assert document["turns"] == {"0": 1, "1": 2, "2": 1}
    assert document["words"]["question"] == {"p5": 0, "p50": 2, "p95": 3, "max": 3}
    assert document["words"]["answer"] == {"p5": 1, "p50": 2, "p95": 5, "max": 5}
    assert (document["system_prompt_share"], document["tools_share"]) == (0.25, 0.25)
    assert (document["formats"], document["openers"]) == ({"plain": 4}, [["Sure", 2]])
    assert json.loads(json.dumps(document)) == document


def test_nothing_is_covered_by_no_rows() -> None:
    """An empty data set has figures, all of them nothing."""
    document = cover([]).document()
    assert document["rows"] == document["effective_clusters"] == document["compression_ratio"] == 0
    assert document["languages"] == {}


def test_the_sample_does_not_depend_on_the_order() -> None:
    """Shuffled rows give the same sample, of the size that was asked for and of different content."""
    rows = [row(number, f"question {number % 700}", "answer") for number in range(2000)]
    small = Thresholds(sample_rows=100)
    sample = cover(rows, small).sample
    assert sample == cover(random.Random(0).sample(rows, len(rows)), small).sample
    assert len(sample) == 100
    assert [number for number, _, _ in sample] == sorted({number for number, _, _ in sample})
    assert all(number < 700 for number, _, _ in sample)  # the first of each content


def test_repeated_rows_count_in_the_shares() -> None:
    """A content that stands in nine rows of ten makes nine tenths of the language mix and of the lengths."""
    german = row(0, "Wie geht es dir und der Familie heute?", "Es geht mir gut, und die Kinder sind auch nicht krank.")
    rows = [german._replace(number=number) for number in range(90)]
    rows += [
        row(90 + n, f"What is the sum of {n} and the next?", f"It is {n}, and that is what you have") for n in range(10)
    ]
    document = cover(rows).document()
    assert document["sampled"] == 11
    assert document["languages"] == pytest.approx({"de": 0.9, "en": 0.1})
    assert document["words"]["question"]["p50"] == 8


def test_sampled_figures_are_near_those_of_all_rows() -> None:
    """With more rows than the sample holds, quantiles of lengths are near the true ones; the longest is exact."""
    lengths = [1 + number % 100 for number in range(5000)]
    rows = [row(number, f"{number}", "word " * length) for number, length in enumerate(lengths)]
    words = cover(rows, Thresholds(sample_rows=1000)).document()["words"]["answer"]
    assert words["max"] == 100
    assert abs(words["p50"] - 50) <= 6
    assert abs(words["p95"] - 95) <= 3


def test_variety_of_prompts() -> None:
    """Prompts without a word in common count fully, the same prompt again counts not at all."""
    different = [f"alpha{number} beta{number} gamma{number}" for number in range(60)]
    assert effective_clusters(different) == pytest.approx(60, rel=0.02)
    assert effective_clusters(["the same prompt"] * 60) == pytest.approx(1)
    assert effective_clusters(different[:10] * 6) == pytest.approx(10, rel=0.02)
    assert effective_clusters([]) == 0


def test_distinct_shares_are_measured_on_a_budget() -> None:
    """Repeating texts lowers the shares; beyond the budget nothing is read."""
    assert distinct_shares(["a b c d", "a b c d"], 100) == (0.5, 0.5, 8)
    assert distinct_shares(["a b c d", "a b c d"], 4) == (1.0, 1.0, 4)
    assert distinct_shares([], 10) == (0.0, 0.0, 0)


def test_words_of_all_scripts() -> None:
    """Words are runs of letters, in lower case; a Chinese or Japanese character is a word."""
    assert split_words("Don't STOP, it's 2.5 km!") == ["don't", "stop", "it's", "2", "5", "km"]
    assert split_words("我爱 Python 和ひら") == ["我", "爱", "python", "和", "ひ", "ら"]
    assert split_words("Straße è già") == ["straße", "è", "già"]


def test_quantiles_follow_the_weights() -> None:
    """A text that stands in most rows is the median."""
    counts = word_counts(["one", "one two", "one two three"], np.array([1, 8, 1]), "one two three four")
    assert counts == {"p5": 1, "p50": 2, "p95": 3, "max": 4}


def test_one_sided_words() -> None:
    """A word of one side only is named there with its shares; words of both sides are not named."""
    one, other = ["please refund the bag"] * 30, ["please store the bag"] * 20
    left, right = one_sided(one, other, 5)
    assert [(found.word, found.share, found.other_share) for found in left] == [("refund", 1.0, 0.0)]
    assert [found.word for found in right] == ["store"]
    assert one_sided(one, one, 5) == ([], [])


def test_compression_ratio() -> None:
    """Repetition compresses well, random letters hardly."""
    dice = random.Random(0)
    noise = ["".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=1000)) for _ in range(20)]
    assert compression_ratio(noise) < 1.8
    assert compression_ratio(["the same answer again and again"] * 500) > 50


def test_real_sets(shared: Path) -> None:
    """Prompts to one bank are less varied than instructions of all kinds; a set of nearly one row compresses best."""
    folder = shared / "data/sft"
    alpaca = json.loads((folder / "llamafactory_alpaca_en_demo.json").read_text(encoding="utf-8"))
    identity = json.loads((folder / "llamafactory_identity.json").read_text(encoding="utf-8"))
    with (folder / "banking77_test.csv").open(encoding="utf-8", newline="") as file:
        bank = [row(number, each["text"], each["category"]) for number, each in enumerate(csv.DictReader(file))]
    documents = [
        cover([row(number, each["instruction"], each["output"]) for number, each in enumerate(rows)]).document()
        for rows in (alpaca, identity)
    ]
    varied, uniform = documents
    assert varied["effective_clusters"] > 1.5 * cover(bank).document()["effective_clusters"]
    assert 2.5 < varied["compression_ratio"] < 3 < uniform["compression_ratio"]
    assert varied["languages"]["en"] > 0.95
    assert uniform["distinct_2"] < 0.5 < varied["distinct_2"]
