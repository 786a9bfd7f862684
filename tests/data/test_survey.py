"""The survey: how rows are numbered, which parts the rules judge, and that the way rows come makes no difference."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attune.data.files import Part
from attune.data.lint.catalog import Found
from attune.data.lint.rows import RowOptions
from attune.data.lint.thresholds import DEFAULT
from attune.data.survey import Survey, Surveyed
from attune.types import Example, Message, Place
from tests.data.lint.surveyed import by_name
from tests.data.sets import pairs

CLEAN = [(row["prompt"], row["completion"]) for row in pairs(60)]
MARKUP = "<|im_start|>assistant\nIt is so.<|im_end|>"


def examples(texts: list[tuple[str, str]], file: str = "a.jsonl") -> list[Example]:
    """Return the rows of a file from (question, answer)."""
    return [
        Example(Place(file, line, 10 * line), (Message("user", question), Message("assistant", answer)))
        for line, (question, answer) in enumerate(texts, 1)
    ]


def survey_of(parts: dict[Part, list[Example]], options: RowOptions | None = None, chunk: int = 0) -> Surveyed:
    """Return what is found in rows by part; `chunk`: so many at a time, 0 = all at once."""
    survey = Survey(options or RowOptions())
    for part, rows in parts.items():
        for start in range(0, len(rows), chunk or len(rows)):
            survey.take(rows[start : start + (chunk or len(rows))], part)
    return survey.finish()


def test_rows_are_numbered_over_all_files() -> None:
    """A row's number leads to its place and its part; test sets do not count as checked."""
    surveyed = survey_of(
        {
            "train": [*examples(CLEAN[:3], "a.jsonl"), *examples(CLEAN[3:5], "b.jsonl")],
            "valid": examples(CLEAN[5:7], "v.jsonl"),
            "test": examples(CLEAN[7:10], "t.jsonl"),
        }
    )
    assert [str(place) for place in surveyed.places] == [
        *("a.jsonl:1", "a.jsonl:2", "a.jsonl:3", "b.jsonl:1", "b.jsonl:2", "v.jsonl:1", "v.jsonl:2"),
        *("t.jsonl:1", "t.jsonl:2", "t.jsonl:3"),
    ]
    assert surveyed.places[4].offset == 20
    assert surveyed.parts.tolist() == ["train"] * 5 + ["valid"] * 2 + ["test"] * 3
    assert surveyed.num_checked == 7
    assert surveyed.found == ()


def test_rules_judge_training_and_validation_rows() -> None:
    """An unfilled slot is a fault in rows that are trained or measured on, none in a test set."""
    slot = ("Who are you?", "I am {{user_title}}, made by {{company}}.")
    surveyed = survey_of(
        {
            "train": examples([*CLEAN[:5], slot]),
            "valid": examples([*CLEAN[5:9], ("And who is she?", "She is {{user_title}}.")], "v.jsonl"),
            "test": examples([("Who is it?", "It is {{user_title}}, my dear.")], "t.jsonl"),
        }
    )
    (found,) = surveyed.found
    assert (found.name, list(found.rows)) == ("placeholder", [5, 10])
    assert "{{user_title}}" in found.texts[5]


def test_test_sets_are_compared_with_training_rows() -> None:
    """A training row that stands in a test set is a leak; two test rows that are equal are nobody's fault."""
    test = examples([CLEAN[3], CLEAN[20], CLEAN[20]], "t.jsonl")
    surveyed = survey_of({"train": examples(CLEAN[:10]), "test": test})
    (found,) = surveyed.found
    assert (found.name, list(found.rows)) == ("split-leak", [10])
    assert found.texts[10] == "the same as a.jsonl:4"
    assert [(leak.row, leak.train_row, leak.kind) for leak in surveyed.leaks] == [(10, 3, "same row")]


def test_sums_are_of_training_rows_alone() -> None:
    """Openings that only validation rows share tell nothing about what is learned."""
    same = [(question, f"Of course, my dear {answer} {question}") for question, answer in CLEAN[30:]]
    assert "opener-concentration" in by_name(survey_of({"train": examples(same)}).found)
    surveyed = survey_of({"train": examples(CLEAN[:30]), "valid": examples(same, "v.jsonl")})
    assert "opener-concentration" not in by_name(surveyed.found)


@pytest.mark.parametrize(
    ("planted", "rows", "severity"), [(1, 10, "warning"), (2, 10, "warning"), (3, 10, None), (4, 1000, "warning")]
)
def test_few_rows_with_chat_markup_are_no_error(planted: int, rows: int, severity: str | None) -> None:
    """One or two rows may speak about markup; three, and half a percent of all, were rendered before."""
    texts = [(row["prompt"], row["completion"]) for row in pairs(rows - planted, seed=rows)]
    marked = [(question, MARKUP.replace("so", answer)) for question, answer in CLEAN[:planted]]
    found = by_name(survey_of({"train": examples(texts + marked)}).found)["template-in-content"]
    assert (len(found.rows), found.severity) == (planted, severity)


def test_texts_are_limited_and_rows_are_not() -> None:
    """Every faulty row is counted; what was seen is kept for the first ones only."""
    options = RowOptions(thresholds=replace(DEFAULT, most_examples=2))
    slots = [(question, f"{answer} for {{{{user_name}}}}.") for question, answer in CLEAN[:5]]
    found = by_name(survey_of({"train": examples(CLEAN[10:12] + slots)}, options).found)["placeholder"]
    assert (list(found.rows), sorted(found.texts)) == ([2, 3, 4, 5, 6], [2, 3])


def test_chunks_make_no_difference() -> None:
    """Rows one by one, by sevens or all at once: the same findings, clusters and leaks."""
    texts = [*CLEAN[:25], CLEAN[4], ("Who is it?", "I am {{user_title}}."), (CLEAN[7][0], f"{CLEAN[7][1]} too")]
    parts: dict[Part, list[Example]] = {"train": examples(texts), "valid": examples([CLEAN[9], CLEAN[40]], "v.jsonl")}
    whole = survey_of(parts)
    assert {"duplicate", "placeholder", "split-leak"} <= set(by_name(whole.found))
    for chunk in (1, 7):
        other = survey_of(parts, chunk=chunk)
        assert [_plain(found) for found in other.found] == [_plain(found) for found in whole.found]
        assert other.duplicates.cluster_of.tolist() == whole.duplicates.cluster_of.tolist()
        assert other.leaks == whole.leaks


def _plain(found: Found) -> tuple[str, list[int], dict[int, str], str]:
    return found.name, list(found.rows), dict(found.texts), found.detail


def test_coverage_is_made_where_asked() -> None:
    """Questions for a comparison come in any case only with coverage; it describes training rows alone."""
    rows, other = examples(CLEAN[:30]), examples(CLEAN[30:], "v.jsonl")
    assert survey_of({"train": rows}).coverage is None
    survey = Survey(RowOptions(), with_coverage=True)
    survey.take(rows, "train")
    survey.take(other, "valid")
    surveyed = survey.finish()
    assert surveyed.coverage is not None
    assert surveyed.coverage["rows"] == 30
    assert sorted(surveyed.questions) == sorted(question for question, _ in CLEAN[:30])


def test_nothing_at_all() -> None:
    """A survey of no rows finds nothing and does not fail."""
    surveyed = Survey(RowOptions()).finish()
    assert (surveyed.found, surveyed.num_checked, surveyed.leaks) == ((), 0, ())
