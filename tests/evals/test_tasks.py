"""Scorers give the known score for known answers, and only the metrics that suit the references are used."""

from __future__ import annotations

import csv
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attune.errors import ConfigError
from attune.evals.tasks import (
    METRICS,
    InvalidJsonError,
    Schema,
    applicable,
    common_length,
    exact_match,
    field_accuracy,
    final_number,
    is_equal,
    json_valid,
    label_accuracy,
    numeric_match,
    read_json,
    rouge_l,
    score,
    structure_of,
)

TICKET = '{"product": "kettle", "urgency": 2, "order": null}'
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"product": {"enum": ["kettle", "lamp"]}, "urgency": {"type": "integer", "minimum": 1, "maximum": 3}},
    "required": ["product", "urgency"],
    "additionalProperties": False,
}


def test_exact_match_ignores_only_white_space_around() -> None:
    """Anything else counts: case, inner spaces."""
    assert exact_match(" yes\n", "yes") == 1
    assert exact_match("Yes", "yes") == 0
    assert exact_match("a  b", "a b") == 0


def test_a_label_may_be_dressed_up() -> None:
    """Case, quotes and a full stop do not make a label wrong; another word does."""
    assert label_accuracy(' "Card Lost".\n', "card lost") == 1
    assert label_accuracy("card lost, I think", "card lost") == 0
    assert label_accuracy("", "card lost") == 0


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She has 3 + 4 = <<3+4=7>>7 apples.\n#### 7", "7"),
        ("#### 1,234", "1234"),
        ("It costs $1,234.50.", "1234.50"),
        ("first 5, then -12", "-12"),
        ("5-3", "3"),
        ("between 3 and \u22124.5 degrees", "-4.5"),
        ("the answer is .5", ".5"),
        ("plan B2 costs 30 dollars", "30"),
        ("\u670942\u4e2a", "42"),
        ("12,34", "34"),
        ("#### 8\n9 more words", "8"),
        ("no number in B22", None),
        ("", None),
    ],
)
def test_final_number(text: str, number: str | None) -> None:
    """The number after #### if there is one, else the last; thousands separators and signs understood."""
    assert final_number(text) == (None if number is None else Decimal(number))


def test_numbers_match_as_numbers() -> None:
    """1,000 is 1000.0; a reference without a number cannot be scored."""
    assert numeric_match("so 1,000 it is", "#### 1000.0") == 1
    assert numeric_match("so 1,001 it is", "#### 1000") == 0
    assert numeric_match("no idea", "#### 1000") == 0
    assert numeric_match("7", "seven") is None


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}',
        '{"a": NaN}',
        "[Infinity]",
        '{"a": 1,}',
        "{'a': 1}",
        '```json\n{"a": 1}\n```',
        "[" * 100_000,
        "",
        '{"a": 1} x',
    ],
)
def test_json_is_strict(text: str) -> None:
    """Repeated keys, NaN, trailing commas, fences, depth beyond reason and text around it are not valid."""
    with pytest.raises(InvalidJsonError):
        read_json(text)
    assert json_valid(text, TICKET) == 0


def test_a_bare_value_is_json_but_no_structured_answer() -> None:
    """A model that says 5 does not get credit for JSON."""
    assert read_json("5") == 5
    assert structure_of("5") is None
    assert json_valid("5", TICKET) == json_valid('"word"', TICKET) == 0
    assert json_valid(' {"a": [1]}\n', TICKET) == json_valid("[]", TICKET) == 1


def test_field_accuracy_counts_equal_fields_of_the_reference() -> None:
    """Missing and wrong fields cost, further ones do not; no object at all is 0."""
    assert field_accuracy(TICKET, TICKET) == 1
    assert field_accuracy('{"product": "kettle", "urgency": 3, "more": 1}', TICKET) == pytest.approx(1 / 3)
    assert field_accuracy('{"urgency": 2.0, "order": null, "product": "lamp"}', TICKET) == pytest.approx(2 / 3)
    assert field_accuracy("[1]", TICKET) == field_accuracy("oh", TICKET) == 0
    assert field_accuracy(TICKET, "oh") is None
    assert field_accuracy("{}", "{}") is None


def test_json_equality_is_that_of_json() -> None:
    """Numbers by value, booleans are no numbers, order of keys is nothing, order of items is something."""
    assert is_equal({"a": [1, {"b": 2}], "c": None}, {"c": None, "a": [1.0, {"b": 2}]})
    assert not is_equal(1, True)
    assert not is_equal({"a": 0}, {"a": False})
    assert not is_equal([1, 2], [2, 1])
    assert not is_equal("1", 1)


def test_rouge_l_known_answers() -> None:
    """Three common words in order of four and five: F1 = 2*3/9."""
    assert rouge_l("the cat was sat", "The cat sat on mats") == pytest.approx(2 * 3 / 9)
    assert rouge_l("same words here", "same words here") == 1
    assert rouge_l("", "some words") == 0
    assert rouge_l("some words", " ") is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abcd"), max_size=80), st.lists(st.sampled_from("abcd"), max_size=80))
def test_common_length_equals_the_table(one: list[str], other: list[str]) -> None:
    """The bit-parallel length is that of the plain dynamic programme, beyond 64 words too."""
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, first in enumerate(one):
        for j, second in enumerate(other):
            table[i + 1][j + 1] = table[i][j] + 1 if first == second else max(table[i][j + 1], table[i + 1][j])
    assert common_length(one, other) == table[-1][-1]


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["kettle", "lamp", "x"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["product", "urgency", "z"]), inner, max_size=3)
        ),
        max_leaves=6,
    )
)
def test_schema_agrees_with_the_reference_library(value: Any) -> None:
    """jsonschema-rs and jsonschema give the same verdict on any object or array."""
    text = json.dumps(value)
    expected = isinstance(value, (dict, list)) and jsonschema.Draft202012Validator(SCHEMA).is_valid(value)
    assert Schema(SCHEMA).score(text) == float(expected)


def test_schema_takes_formats_as_annotations_in_every_draft() -> None:
    """As jsonschema does by default: a format that is not asserted fails nobody."""
    for draft in ("http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft/2020-12/schema"):
        dated = {"$schema": draft, "properties": {"day": {"type": "string", "format": "date"}}}
        assert Schema(dated).score('{"day": "someday"}') == 1
        assert Schema(dated).score('{"day": 3}') == 0


@pytest.mark.parametrize("source", [{"type": "nothing"}, {"$ref": "https://example.org/a.json"}])
def test_a_schema_that_cannot_be_used_is_a_config_error(source: dict[str, Any]) -> None:
    """Wrong schemas and ones that would need a network are refused, by name."""
    with pytest.raises(ConfigError, match=r"tickets\.schema\.json is not a JSON Schema that can be used"):
        Schema(source, "tickets.schema.json")


def test_metrics_follow_the_references() -> None:
    """JSON, labels, numbers and prose get their own metrics; exact match and stopping are always measured."""
    tickets = [json.dumps({"product": "lamp", "note": f"number {n}"}) for n in range(20)]
    assert applicable(tickets) == ["exact_match", "json_valid", "field_accuracy", "stop_rate"]
    assert applicable(tickets, has_schema=True)[1:3] == ["json_valid", "schema_valid"]
    assert "json_valid" in applicable([*tickets[:16], *["not json"] * 4])
    assert "json_valid" not in applicable([*tickets[:15], *["not json"] * 5])
    assert applicable(["yes", "no"] * 10) == ["exact_match", "label_accuracy", "stop_rate"]
    assert applicable([str(n) for n in range(20)]) == ["exact_match", "numeric_match", "stop_rate"]
    prose = [f"A sentence about the matter of {word} and more." for word in "abcdefghij"]
    assert applicable(prose) == ["exact_match", "rouge_l", "stop_rate"]
    assert applicable(["only one label"] * 10) == ["exact_match", "stop_rate"]
    assert applicable([]) == []


def test_real_sets_get_the_metrics_a_reader_would_choose(shared: Path) -> None:
    """GSM8K is scored by its number, banking77 by its label, Alpaca as prose."""
    sft = shared / "data" / "sft"
    with (sft / "gsm8k_test.jsonl").open() as file:
        maths = [json.loads(line)["answer"] for line in file]
    assert applicable(maths) == ["exact_match", "numeric_match", "rouge_l", "stop_rate"]
    assert all(numeric_match(text, text) == 1 for text in maths)
    with (sft / "banking77_test.csv").open(newline="") as file:
        labels = [row["category"] for row in csv.DictReader(file)]
    assert applicable(labels) == ["exact_match", "label_accuracy", "stop_rate"]
    alpaca = [row["output"] for row in json.loads((sft / "llamafactory_alpaca_en_demo.json").read_text())]
    assert applicable(alpaca) == ["exact_match", "rouge_l", "stop_rate"]


def test_score_gives_every_metric_that_applies_to_the_row() -> None:
    """One call, all names; what a row cannot tell is left out."""
    names = [name for name in METRICS if name != "label_accuracy"]
    scores = score(names, '{"product": "lamp", "urgency": 2}', TICKET, finished=True, schema=Schema(SCHEMA))
    assert scores == {
        "exact_match": 0, "numeric_match": 1, "json_valid": 1, "schema_valid": 1,
        "field_accuracy": pytest.approx(1 / 3), "rouge_l": pytest.approx(2 * 2 / 10), "stop_rate": 1,
    }  # fmt: skip
    assert score(["numeric_match", "stop_rate"], "7", "seven", finished=False) == {"stop_rate": 0}
