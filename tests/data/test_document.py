"""The parts of a check's document: figures that add up and places that lead back to the rows."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from attune.config import Config
from attune.data.audit import audit
from attune.data.document import (
    BINS,
    duplicates_document,
    leaks_document,
    lengths_in_tokens,
    lengths_in_words,
)
from attune.data.encoding.tokenizer import load_tokenizer
from attune.data.lint.waivers import Waivers
from attune.data.prepare import Prepared, prepare
from attune.data.survey import Surveyed
from tests.data.bad_inputs import write_tokenizer

TOWN = "The station is behind the old town hall, next to the river and opposite the market place of number"


def write(path: Path, pairs: list[tuple[str, str]]) -> str:
    """A JSONL file of questions and answers."""
    path.write_text("".join(json.dumps({"prompt": ask, "completion": say}) + "\n" for ask, say in pairs), "utf-8")
    return str(path)


def survey(**data: Any) -> Surveyed:
    """All rows of some files, surveyed."""
    config = Config().with_values({f"data.{name}": value for name, value in data.items()})
    return audit(config, Waivers(), with_coverage=False).surveyed


def encode(folder: Path, *files: str, **data: Any) -> Prepared:
    """The rows of some files as bytes, none held out."""
    settings = {"train": list(files), "valid_share": 0.0, **data}
    config = Config().with_values({f"data.{name}": value for name, value in settings.items()})
    return prepare(config, load_tokenizer(write_tokenizer(folder / "t")), model_length=None)


def edges_and_counts(lengths: dict[str, Any]) -> dict[int, int]:
    """The filled bins of a histogram: lower edge -> rows; it must be well made."""
    edges, counts = lengths["edges"], lengths["counts"]
    assert len(edges) == len(counts) + 1 <= BINS + 1
    assert len({after - before for before, after in pairwise(edges)}) == 1
    return {edge: count for edge, count in zip(edges, counts, strict=False) if count}


def test_lengths_in_words(tmp_path: Path) -> None:
    """Training rows are counted by their words; tokens, limit and losses are not claimed."""
    train = write(tmp_path / "a.jsonl", [("one", "two"), ("one two", "three four"), ("five six", "seven eight")])
    held = write(tmp_path / "b.jsonl", [("word " * 50, "x")])
    lengths = lengths_in_words(survey(train=train, valid=held))
    assert edges_and_counts(lengths) == {2: 1, 4: 2}
    assert (lengths["unit"], lengths["limit"], lengths["over"], lengths["policies"]) == ("words", None, None, [])


def test_many_lengths_share_bins(tmp_path: Path) -> None:
    """Lengths far apart fall into at most so many bins, and every row into one of them."""
    pairs = [("word " * number, f"{number}") for number in range(1, 400, 3)]
    lengths = lengths_in_words(survey(train=write(tmp_path / "a.jsonl", pairs)))
    assert sum(edges_and_counts(lengths).values()) == len(pairs)
    assert lengths["edges"][0] == 2
    assert lengths["edges"][-1] > 398 + 1


def test_one_length_is_one_bin(tmp_path: Path) -> None:
    """Rows that are all as long fall into one bin of width one."""
    lengths = lengths_in_words(survey(train=write(tmp_path / "a.jsonl", [("a", "b"), ("c", "d")])))
    assert (lengths["edges"], lengths["counts"]) == ([2, 3], [2])


def test_all_turns_count(tmp_path: Path) -> None:
    """A conversation is as long as the words of all its turns, a text as its own; who speaks is no word."""
    turns = [("system", "one"), ("user", "two three"), ("assistant", "four"), ("user", "five"), ("assistant", "six")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row) + "\n")
    assert lengths_in_words(survey(train=str(path)))["edges"] == [6, 7]
    path.write_text('{"text": "only three words"}\n')
    assert lengths_in_words(survey(train=str(path)))["edges"] == [3, 4]


def test_no_usable_row_has_no_histogram(tmp_path: Path) -> None:
    """Where every row is bad the histogram is empty."""
    path = tmp_path / "a.jsonl"
    path.write_text("42\n" * 3)
    lengths = lengths_in_words(survey(train=str(path), skip_bad_rows=3))
    assert (lengths["edges"], lengths["counts"]) == ([], [])


def test_lengths_in_tokens_and_what_each_policy_costs(tmp_path: Path) -> None:
    """With bytes for tokens every figure can be counted by hand; files are added up."""
    around = len("User: \nAssistant:\n") + 1  # the end token
    first = write(tmp_path / "a.jsonl", [("p" * 10, "short"), ("p" * 10, "x" * 100)])
    second = write(tmp_path / "b.jsonl", [("q" * 200, "answer"), ("q" * 10, "brief")])
    lengths = lengths_in_tokens(encode(tmp_path, first, second, max_length=60))
    assert (lengths["unit"], lengths["limit"]) == ("tokens", 60)
    assert sum(edges_and_counts(lengths).values()) == 4
    assert lengths["edges"][0] == around + 15
    assert lengths["edges"][-1] > around + 206
    learned = len("x" * 100) + 1 + len("answer") + 1
    assert lengths["over"] == {"rows": 2, "learned": learned}
    kept = 60 - (around - 1) - 10  # of the long answer, when the row is cut
    assert lengths["policies"] == [
        {"policy": "drop", "rows_lost": 2, "learned_lost": learned},
        {"policy": "cut", "rows_lost": 1, "learned_lost": learned - kept},
        {"policy": "split", "rows_lost": 0, "learned_lost": 0},
    ]


@pytest.mark.parametrize("policy", ["drop", "cut", "split"])
def test_the_policy_costs_what_it_was_said_to_cost(tmp_path: Path, policy: str) -> None:
    """Whichever policy is chosen, the prices are the same, and the chosen one's is what training loses."""
    path = write(tmp_path / "a.jsonl", [("p" * 10, "short"), ("p" * 10, "x" * 100), ("q" * 200, "answer")])
    whole = encode(tmp_path, path, max_length=1000).ledger.tokens_learned
    prepared = encode(tmp_path, path, max_length=60, overlong=policy)
    prices = {one["policy"]: one for one in lengths_in_tokens(prepared)["policies"]}
    assert prices["drop"]["rows_lost"] == 2
    assert prices["cut"]["rows_lost"] == 1
    assert prepared.ledger.counts["dropped"] == prices[policy]["rows_lost"]
    assert whole - prepared.ledger.tokens_learned == prices[policy]["learned_lost"]


def test_copies_and_clusters(tmp_path: Path) -> None:
    """Copies are counted beyond the first, clusters name their places, and texts stand where they were given."""
    pairs = [("Where is it?", f"{TOWN} one."), ("A", "b c"), ("Where is it?", f"{TOWN} one."), ("D", "e f")]
    path = write(tmp_path / "a.jsonl", pairs)
    surveyed = survey(train=path)
    document = duplicates_document(surveyed, {0: "Where is it? -> The station"})
    assert (document["exact"], document["near"]) == (1, 0)
    places = [{"file": path, "line": 1}, {"file": path, "line": 3}]
    assert document["clusters"] == [{"rows": 2, "places": places, "text": "Where is it? -> The station"}]
    assert duplicates_document(surveyed, {})["clusters"][0]["text"] == ""
    json.dumps(document)


def test_only_so_many_clusters_and_places_are_named(tmp_path: Path) -> None:
    """What is left out of the document is still counted."""
    pairs = [(f"Question {number}", f"Answer {number}") for number in range(4) for _ in range(5)]
    document = duplicates_document(survey(train=write(tmp_path / "a.jsonl", pairs)), {}, most=3)
    assert document["exact"] == 16
    assert [(one["rows"], len(one["places"])) for one in document["clusters"]] == [(5, 3)] * 3


def test_no_copies_and_no_leaks(tmp_path: Path) -> None:
    """Rows that are all different give zeros and empty lists."""
    surveyed = survey(train=write(tmp_path / "a.jsonl", [("A", "b"), ("C", "d")]))
    assert duplicates_document(surveyed, {}) == {"exact": 0, "near": 0, "clusters": []}
    assert leaks_document(surveyed, {}) == []


def test_leaks_name_both_rows(tmp_path: Path) -> None:
    """A held-out row that is also trained on comes with the training row that gives it away."""
    same = ("Where is the station of our town?", f"{TOWN} one.")
    train = write(tmp_path / "a.jsonl", [("A", "b"), ("C", "d"), same])
    held = write(tmp_path / "b.jsonl", [("E", "f"), same])
    surveyed = survey(train=train, valid=held)
    (leak,) = leaks_document(surveyed, {4: "Where is"})
    assert (leak["file"], leak["line"], leak["train_file"], leak["train_line"]) == (held, 2, train, 3)
    assert (leak["overlap"], leak["text"]) == (1.0, "Where is")
    assert leaks_document(surveyed, {}, most=0) == []
    json.dumps(leak)
