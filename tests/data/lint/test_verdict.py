"""Findings as they are read: their order, shares, numbers of rows in words, and what waivers take away."""

from __future__ import annotations

import pytest

from attune.data.lint.catalog import RULES, Found
from attune.data.lint.thresholds import DEFAULT
from attune.data.lint.verdict import soften, to_finding, to_findings
from attune.data.lint.waivers import Waiver, Waivers
from attune.types import Finding, Place, Severity


def place_of(row: int) -> Place:
    """Rows 0 to 99 are the lines of one file, later ones those of another."""
    return Place("a.jsonl" if row < 100 else "b.jsonl", row % 100 + 1, 0)


def findings(*found: Found, rows: int = 200, waivers: Waivers | None = None, held_out: int = 0) -> list[Finding]:
    """Return the findings of what was found."""
    return to_findings(found, place_of, rows, waivers=waivers or Waivers(), held_out=held_out)


def test_errors_first_then_by_rows() -> None:
    """What keeps rows from training stands first; within a severity what most rows have."""
    found = [
        Found("several-answers", range(50)),
        Found("personal-data", range(9)),
        Found("secret", range(3)),
        Found("duplicate", range(20)),
        Found("conflict", range(30), severity="warning"),
        Found("placeholder", range(4)),
    ]
    assert [(one.name, one.severity) for one in findings(*found)] == [
        ("placeholder", "error"),
        ("secret", "error"),
        ("conflict", "warning"),
        ("duplicate", "warning"),
        ("personal-data", "warning"),
        ("several-answers", "info"),
    ]


@pytest.mark.parametrize(
    ("rows", "start"),
    [
        (range(1), "1 row (0.5%) holds a slot that nobody filled (line 1): such as {{x}}. The model will say it."),
        (range(2, 4), "2 rows (1.0%) hold a slot that nobody filled (lines 3, 4): such as {{x}}."),
        (range(2, 9), "7 rows (3.5%) hold a slot that nobody filled (lines 3, 4, 5, 6, 7, ...): such as {{x}}."),
    ],
)
def test_a_message_counts_in_words(rows: range, start: str) -> None:
    """How many rows, which share, where, what was seen and what it does, with verb and noun in the number of rows."""
    (finding,) = findings(Found("placeholder", rows, dict.fromkeys(rows, "{{x}}")))
    assert finding.message.startswith(start)
    assert (finding.rows, finding.share) == (len(rows), len(rows) / 200)
    assert finding.fix == RULES["placeholder"].fix


@pytest.mark.parametrize("name", sorted(RULES))
def test_every_rule_speaks_of_one_row(name: str) -> None:
    """No title keeps its plural for a single row, and each has a sentence of harm that ends."""
    one, two = (findings(Found(name, range(number)), held_out=200)[0].message for number in (1, 2))
    said_of_one = one.split(") ", 1)[1].split(" (line ")[0]
    said_of_two = two.split(") ", 1)[1].split(" (lines ")[0]
    assert said_of_two == RULES[name].title
    assert said_of_one != said_of_two
    plurals = {"have", "are", "hold", "repeat", "share", "give", "break", "begin", "ask", "answer", "refuse", "carry"}
    verb = next(at for at, word in enumerate(said_of_two.split()) if word in {*plurals, "show"})
    assert said_of_one.split()[verb] not in {*plurals, "show"}
    assert said_of_one.split()[verb].endswith("s")
    assert one.endswith(".")


def test_large_counts_and_small_shares() -> None:
    """Thousands have a comma, and a share that would round to nothing says so."""
    (finding,) = findings(Found("duplicate", range(1234)), rows=10_000)
    assert finding.message.startswith("1,234 rows (12.3%) repeat an earlier row (lines 1, 2, 3, 4, 5, ...):")
    (finding,) = findings(Found("duplicate", [7]), rows=1_000_000)
    assert finding.message.startswith("1 row (under 0.1%) repeats an earlier row (line 8):")


def test_leaks_are_a_share_of_the_held_out_rows() -> None:
    """Five of fifty held-out rows are a tenth, whatever the training rows are; other rules count all rows."""
    leak, slot = Found("split-leak", range(100, 105)), Found("placeholder", range(5))
    by_name = {one.name: one.share for one in findings(leak, slot, rows=1000, held_out=50)}
    assert by_name == {"split-leak": 0.1, "placeholder": 0.005}


def test_a_detail_takes_the_place_of_what_was_seen() -> None:
    """Figures of a rule stand in the message, and end as a sentence."""
    (finding,) = findings(Found("conflict", range(2), {0: "seen"}, "1 question with two answers"))
    assert "(lines 1, 2): 1 question with two answers. The model will learn the mixture." in finding.message


def test_examples_are_limited_and_name_their_places() -> None:
    """As many rows are listed as asked for, with file, line and what was seen; all of them are counted."""
    found = Found("secret", [98, 99, 100, 101], {98: "AKIA..."})
    finding = to_finding(found, found.rows, place_of, rows=200, most=3)
    assert finding.examples == (
        {"file": "a.jsonl", "line": 99, "text": "AKIA..."},
        {"file": "a.jsonl", "line": 100, "text": ""},
        {"file": "b.jsonl", "line": 1, "text": ""},
    )
    assert finding.rows == 4
    many = findings(Found("secret", range(DEFAULT.most_examples + 5)), rows=5000)[0]
    assert (len(many.examples), many.rows) == (DEFAULT.most_examples, DEFAULT.most_examples + 5)


def test_ignored_rows_do_not_count() -> None:
    """Rows of an ignore file leave the count, the lines and what was seen; a finding without rows is none."""
    found = Found("secret", [1, 2, 3], {1: "first", 2: "second", 3: "third"})
    waivers = Waivers(lines=(Waiver("D15", "a.jsonl", 2, 3),))
    (finding,) = findings(found, waivers=waivers)
    assert finding.message.startswith("1 row (0.5%) holds what looks like a key or password (line 4): such as third.")
    assert [example["line"] for example in finding.examples] == [4]
    assert findings(found, waivers=Waivers(lines=(Waiver("secret"),))) == []
    assert len(findings(found, waivers=Waivers(lines=(Waiver("D05"), Waiver("D15", "b.jsonl"))))) == 1


@pytest.mark.parametrize("word", ["D15", "secret"])
@pytest.mark.parametrize("severity", ["error", "warning"])
def test_an_allowed_finding_is_only_told(word: str, severity: Severity) -> None:
    """It keeps its count and rows, and says that it is allowed."""
    found = Found("secret", [1], {1: "key"}, severity=severity)
    (before,) = findings(found)
    (after,) = findings(found, waivers=Waivers(frozenset([word])))
    assert (before.severity, after.severity) == (severity, "info")
    assert after.message == f"allowed: {before.message}"
    assert (after.rows, after.share, after.examples) == (before.rows, before.share, before.examples)


def test_an_info_stays_as_it_is() -> None:
    """There is nothing to allow about what is only told."""
    (finding,) = findings(Found("several-answers", [1]))
    assert soften(finding, Waivers(frozenset(["D05"]))) is finding
