"""The last lines of `attune check` and `attune eval`."""

from __future__ import annotations

from typing import Any

from attune.show.summary import MAX_CHECK_LINES, check_lines, evaluation_lines, sample_lines


def finding(severity: str) -> dict[str, Any]:
    """Return a finding as a document has it."""
    place = {"file": "a.jsonl", "line": 7, "text": "x"}
    return {
        "id": "D03",
        "name": "role-order",
        "severity": severity,
        "rows": 3,
        "message": "What is wrong.",
        "fix": "What to do.",
        "examples": [place],
    }


def check_document(**changes: Any) -> dict[str, Any]:
    """Return a document of `attune check`."""
    document = {
        "rows": 1200,
        "ok": True,
        "ledger": {"used": 1190, "cut": 0, "dropped": 10, "duplicate": 0, "held_out": 0},
        "tokens": {"in": 1000, "learned": 250, "lost": 20},
        "findings": [],
    }
    return {**document, **changes}


def test_good_rows() -> None:
    """Rows, tokens, the result and the next command."""
    assert list(check_lines(check_document(), "attune train a.jsonl")) == [
        "rows      1,200: 1,190 used, 10 dropped",
        "tokens    1,000, 250 learned (25.0 %), 20 lost to length",
        "result    fit to train on",
        "next      attune train a.jsonl",
    ]


def test_without_a_model_no_tokens_are_claimed() -> None:
    """What was not counted is not printed as zero."""
    lines = list(check_lines(check_document(tokens=dict.fromkeys(("in", "learned", "lost"))), "x"))
    assert not any(line.startswith("tokens") for line in lines)


def test_findings_name_a_place_and_a_way_out() -> None:
    """An error names its first place and what to do, an info is one line; there is no next command."""
    lines = list(check_lines(check_document(ok=False, findings=[finding("info"), finding("error")]), "x"))
    assert lines[2:] == [
        "error     D03 role-order, 3 rows (first: a.jsonl:7)",
        "          What is wrong.",
        "          What to do.",
        "info      D03 role-order: What is wrong.",
        "result    not fit to train on: mend the errors above",
    ]


def test_many_findings_stay_within_a_screen() -> None:
    """The worst come first, each has its line before any is told at length, and those left out are counted."""
    findings = [finding("info")] * 3 + [finding("warning")] * 5 + [finding("error")] * 4
    lines = list(check_lines(check_document(findings=findings), "x"))
    assert len(lines) <= MAX_CHECK_LINES
    labels = [line[:10].strip() for line in lines if line[:10].strip()]
    assert labels == ["rows", "tokens", *["error"] * 4, *["warning"] * 5, *["info"] * 3, "result", "next"]
    assert lines[3] == "          What is wrong."
    assert lines.count("          What to do.") == 4  # of the errors: the warnings' details had no room
    lines = list(check_lines(check_document(findings=[finding("warning")] * 40), "x"))
    assert len(lines) == MAX_CHECK_LINES
    assert f"          and {40 - (MAX_CHECK_LINES - 5)} more findings: --json lists all" in lines


def test_long_messages_are_wrapped_and_harmless() -> None:
    """A long message takes as many lines as it needs, beside its label; what a terminal would obey is written out."""
    long = {**finding("error"), "message": "word " * 60 + "\x1b[31mred", "fix": ""}
    lines = list(check_lines(check_document(ok=False, findings=[long]), "x"))
    assert all(len(line) <= 120 for line in lines)
    assert lines[5].startswith("          word")
    assert "[U+001B][31mred" in lines[5]


def test_what_can_be_mended_is_said() -> None:
    """Where a finding's advice names --fix, the next command is that; the page that was written is named."""
    broken = {**finding("error"), "fix": "attune check --fix OUT does."}
    document = check_document(ok=False, findings=[broken])
    lines = list(check_lines(document, "train", fix_command="attune check a.jsonl --fix b.jsonl", report="data.html"))
    assert lines[-2:] == ["report    data.html", "next      attune check a.jsonl --fix b.jsonl"]
    assert list(check_lines(document, "train"))[-1].startswith("result")
    assert list(check_lines(check_document(), "train", fix_command="fix"))[-1] == "next      train"


def test_what_the_rows_cover() -> None:
    """Lengths and languages in a line, where coverage was measured."""
    coverage = {"words": {"answer": {"p5": 3, "p50": 9, "p95": 40, "max": 70}}, "languages": {"de": 0.02, "en": 0.98}}
    lines = list(check_lines(check_document(coverage=coverage), "x"))
    assert lines[2] == "covers    answers of 3 to 40 words, en 98.0 %, de 2.0 %"


def test_table_of_an_evaluation() -> None:
    """A row for each metric, a column for each system, the difference with interval and word, the verdict."""
    document = {
        "rows": 200,
        "systems": {"base": {"exact_match": 0.1, "loss": 2.5}, "tuned": {"exact_match": 0.6, "loss": 1.25}},
        "comparisons": [
            {"metric": "exact_match", "a": "base", "b": "tuned", "difference": 0.5, "low": 0.4, "high": 0.6, "p": 0.01,
             "verdict": "better"},
        ],
        "verdict": "Tuned is better.",
    }  # fmt: skip
    assert list(evaluation_lines(document)) == [
        "200 rows                    Base     Tuned",
        "Exact match               10.0 %    60.0 %   +50.0 points (+40.0 to +60.0) better",
        "Loss                       2.500     1.250",
        "verdict   Tuned is better.",
    ]


def test_samples_are_spread_and_short() -> None:
    """First, middle and last row; long texts are cut to one line."""
    records = [
        {"prompt": f"question {n}", "reference": "a\nb", "answers": {"base": "x" * 500, "tuned": "y"}} for n in range(9)
    ]
    lines = list(sample_lines(records))
    assert [line for line in lines if line.startswith("asked")] == [f"asked     question {n}" for n in (0, 4, 8)]
    assert lines[1] == "wanted    a b"
    assert lines[2].endswith("xxx...")
    assert max(map(len, lines)) <= 120
    assert lines[3] == "tuned     y"
    assert list(sample_lines([])) == []
    assert len(list(sample_lines(records[:1]))) == 4
