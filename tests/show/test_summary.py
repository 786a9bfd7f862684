"""The last lines of `attune check` and `attune eval`."""

from __future__ import annotations

from typing import Any

from attune.show.summary import MAX_FINDINGS, check_lines, evaluation_lines, sample_lines


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
    """An error names its first place and what to do; there is no next command; many findings are counted."""
    lines = list(check_lines(check_document(ok=False, findings=[finding("error"), finding("info")]), "x"))
    assert lines[2:] == [
        "error     D03 role-order, 3 rows (first: a.jsonl:7)",
        "          What is wrong.",
        "          What to do.",
        "info      D03 role-order, 3 rows (first: a.jsonl:7)",
        "          What is wrong.",
        "result    not fit to train on: mend the errors above",
    ]
    lines = list(check_lines(check_document(findings=[finding("warning")] * 40), "x"))
    assert len(lines) <= 25
    assert f"          and {40 - MAX_FINDINGS} more findings: --json lists all" in lines


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
