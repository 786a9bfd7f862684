"""`attune check` as typed: it finds what was planted, names the lines, and leaves clean rows alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from attune.bundled import starter_folder, tickets_folder
from tests.seeded.corpus import FILES, clean_corpus, grow

pytestmark = pytest.mark.journey

SOURCE = Path(__file__).resolve().parents[2] / "src"
TICKETS = tickets_folder()


def check(*words: str | Path, code: int) -> Mapping[str, Any]:
    """The document of `attune check`, run in a process of its own that must end with this code."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "attune", "check", *map(str, words), "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ended.returncode == code, ended.stderr
    document: Mapping[str, Any] = json.loads(ended.stdout)
    assert document["ok"] == (code == 0)
    return document


def named(document: Mapping[str, Any]) -> dict[str, set[tuple[str, int]]]:
    """The places that each rule names: rule -> (file name, line)."""
    places: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for finding in document["findings"]:
        places[finding["name"]] |= {(Path(place["file"]).name, place["line"]) for place in finding["examples"]}
    return places


def test_every_fault_of_the_dirty_tickets_is_found_and_nothing_else() -> None:
    """Each planted line is named by its rule (leaks: the held-out row it gives away), and no clean line by any."""
    dirty = TICKETS / "tickets_dirty.jsonl"
    places = named(check(dirty, "--data.valid", TICKETS / "valid.jsonl", code=3))
    planted = json.loads((TICKETS / "tickets_dirty_planted.json").read_text(encoding="ascii"))
    for fault in planted:
        if fault["rule"] not in ("split-leak", "truncation"):
            assert (dirty.name, fault["line"]) in places[fault["rule"]], fault
    leaks = [fault for fault in planted if fault["rule"] == "split-leak"]
    assert len(places["split-leak"]) == len(leaks)
    contradicted = {line for file, line in places.pop("conflict") if file == dirty.name}
    faulty = {fault["line"] for fault in planted}
    assert len(contradicted - faulty) == sum(fault["rule"] == "conflict" for fault in planted)  # the rows contradicted
    for rule, lines in places.items():
        assert {line for file, line in lines if file == dirty.name} <= faulty, rule


def test_over_long_rows_of_the_dirty_tickets_are_found_with_a_model() -> None:
    """With the bundled model's tokenizer the row that is too long for it is named."""
    dirty = TICKETS / "tickets_dirty.jsonl"
    document = check(dirty, "--model", starter_folder(), "--data.valid", TICKETS / "valid.jsonl", code=3)
    planted = json.loads((TICKETS / "tickets_dirty_planted.json").read_text(encoding="ascii"))
    (long,) = (fault["line"] for fault in planted if fault["rule"] == "truncation")
    (finding,) = (finding for finding in document["findings"] if finding["id"] == "D12")
    assert [place["line"] for place in finding["examples"]] == [long]


def test_the_tickets_of_the_quickstart_are_clean() -> None:
    """No error and no warning on the task that the quickstart trains."""
    document = check(TICKETS / "train.jsonl", "--data.valid", TICKETS / "valid.jsonl", code=0)
    assert [finding for finding in document["findings"] if finding["severity"] != "info"] == []


def test_planted_faults_are_found_and_clean_rows_are_not_flagged(tmp_path: Path) -> None:
    """Every rule finds at least 95 % of its planted faults; at most 0.5 % of the clean rows are flagged."""
    corpus = grow(rows=1500, each=20)
    corpus.write(tmp_path)
    places = named(check(tmp_path / FILES[0], "--data.valid", tmp_path / FILES[1], code=3))
    found: dict[str, list[bool]] = defaultdict(list)
    for fault in corpus.planted:
        there = {(fault.file, line) for line in fault.lines}
        found[fault.rules[0]].append(any(there & places[rule] for rule in fault.rules))
    assert {rule: hits for rule, hits in found.items() if sum(hits) < 0.95 * len(hits)} == {}
    clean = {(file, line) for file, lines in corpus.clean.items() for line in lines}
    flagged = set().union(*places.values()) & clean
    assert len(flagged) <= 0.005 * len(clean), flagged


def test_clean_rows_alone_are_clean(tmp_path: Path) -> None:
    """A corpus without faults ends with code 0, and at most 0.5 % of its rows are flagged."""
    corpus = clean_corpus(rows=1000)
    corpus.write(tmp_path)
    places = named(check(tmp_path / FILES[0], "--data.valid", tmp_path / FILES[1], code=0))
    assert len(set().union(*places.values())) <= 0.005 * sum(map(len, corpus.rows.values())), places
