"""Answers side by side: marks come from the scores, fields from the JSON, nothing from taste."""

from __future__ import annotations

import json
from pathlib import Path

from attune.show.answers import eval_samples, fields_right
from attune.show.facts import Evaluation, read_facts
from tests.show.run_folder import write_run
from tests.show.watched import TICKET


def test_rows_come_in_file_order(tmp_path: Path) -> None:
    """Samples are the evaluation's rows in file order with every system's answer."""
    samples = eval_samples(read_facts(write_run(tmp_path)).evals[0])
    assert [sample.place for sample in samples[:3]] == ["test.jsonl:1", "test.jsonl:2", "test.jsonl:3"]
    assert [answer.name for answer in samples[0].answers] == ["Base", "Tuned"]


def test_fields_are_marked(tmp_path: Path) -> None:
    """A right field is marked right, a wrong one wrong, and an answer that is no JSON has none."""
    sample = eval_samples(read_facts(write_run(tmp_path)).evals[0])[1]
    fields = {name: (wanted, cells) for name, wanted, cells in sample.fields}
    assert list(fields) == list(TICKET)
    wanted, (base, tuned) = fields["urgency"]
    assert (wanted, tuned.text, tuned.is_right) == ('"high"', '"low"', False)
    assert (base.text, base.is_right) == ("", False)
    assert fields["product"][1][1].is_right


def one_row(reference: object, answer: str) -> Evaluation:
    """An evaluation of a single row."""
    row = {"reference": json.dumps(reference), "answers": {"tuned": answer}, "scores": {"tuned": {"exact_match": 0.0}}}
    return Evaluation("one", {}, (row,))


def test_json_values_are_compared_as_json() -> None:
    """Order of keys does not matter; types do: true is not 1, and null is not the same as absent."""
    wanted = {"a": {"x": 1, "y": 2}, "b": True, "c": None, "d": 1}
    sample = eval_samples(one_row(wanted, '{"a": {"y": 2, "x": 1}, "b": 1, "d": 1, "e": 5}'))[0]
    right = {name: cells[0].is_right for name, _, cells in sample.fields}
    assert right == {"a": True, "b": False, "c": False, "d": True, "e": False}


def test_hostile_nesting_is_no_object() -> None:
    """An answer nested a hundred thousand deep is shown as text and does not break the page."""
    sample = eval_samples(one_row({"a": 1}, "[" * 100_000))[0]
    assert not sample.fields[0][2][0].is_right


def test_filters(tmp_path: Path) -> None:
    """A row is `wrong` when the tuned answer misses something, `better` or `worse` against the base's scores."""
    samples = eval_samples(read_facts(write_run(tmp_path)).evals[0])
    assert samples[0].kinds == ("better",)
    assert samples[1].kinds == ("wrong", "better")
    row = {
        "answers": {"base": "a", "tuned": "b"},
        "scores": {"base": {"exact_match": 1.0}, "tuned": {"exact_match": 0.0}},
    }
    assert eval_samples(Evaluation("w", {}, (row,)))[0].kinds == ("wrong", "worse")


def test_fields_right_are_counted() -> None:
    """An answer's right fields are counted against all that it or the reference has; free text has none."""
    assert fields_right('{"a": 1, "b": 2}', '{"a": 1, "b": 3, "c": 4}') == (1, 3)
    assert fields_right('{"a": 1}', "no JSON") == (0, 1)
    assert fields_right("free text", '{"a": 1}') == (0, 0)
