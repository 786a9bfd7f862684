"""The seeded corpus: same seed, same rows; clean rows are clean by plain means; every fault is there."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from tests.seeded.corpus import FILES, Corpus, clean_corpus, grow

SIZE = {"rows": 600, "each": 6}


def said(corpus: Corpus, file: str, line: int) -> str:
    """All text of a row, in small letters and with single blanks."""
    return " ".join(json.dumps(corpus.rows[file][line - 1]).lower().split())


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    """A corpus depends on its sizes and its seed alone."""
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        grow(**SIZE, seed=seed).write(tmp_path / name)
    for file in FILES:
        first = (tmp_path / "one" / file).read_bytes()
        assert first == (tmp_path / "again" / file).read_bytes()
        assert first != (tmp_path / "other" / file).read_bytes()


def test_every_line_is_clean_or_planted_once() -> None:
    """No row holds two planted faults, none is forgotten, and every rule has its number of faults."""
    corpus = grow(**SIZE)
    for file in FILES:
        faulty = [line for fault in corpus.planted if fault.file == file for line in fault.lines]
        assert sorted([*faulty, *corpus.clean[file]]) == list(range(1, len(corpus.rows[file]) + 1))
    counts = Counter(fault.rules[0] for fault in corpus.planted)
    assert counts.pop("opener-concentration") == round(0.08 * SIZE["rows"])
    assert counts.pop("length-pile-up") == round(0.02 * SIZE["rows"])
    assert len(counts) >= 17
    assert set(counts.values()) == {SIZE["each"]}


def test_faults_come_in_several_shapes() -> None:
    """Rules that are planted in one shape only are those that have but one."""
    shapes: dict[str, set[str]] = {}
    for fault in grow(rows=600, each=20).planted:
        shapes.setdefault(fault.rules[0], set()).add(fault.shape)
    single = {rule for rule, kinds in shapes.items() if len(kinds) < 3}
    assert single == {"opener-concentration", "length-pile-up", "several-answers", "shared-passage"}


def test_clean_rows_are_new_each_time() -> None:
    """No two clean rows ask the same, and no two of prose give the same answer."""
    corpus = clean_corpus(rows=1500)
    rows = [(kind, row) for file in FILES for kind, row in zip(corpus.kinds[file], corpus.rows[file], strict=True)]
    asked = Counter(json.dumps(row["messages"][:-1]).lower() for _, row in rows)
    answered = Counter(
        row["messages"][-1]["content"] for kind, row in rows if kind in ("prose", "conversation", "code")
    )
    assert max(asked.values()) == 1
    assert max(answered.values()) == 1
    assert set(corpus.kinds[FILES[0]]) == {"prose", "conversation", "tickets", "label", "code", "tool_call", "trap"}


def test_copies_stand_behind_their_first() -> None:
    """An exact copy repeats a row that stands before it, so it is the one to be flagged."""
    corpus = grow(**SIZE)
    file = FILES[0]
    for fault in corpus.planted:
        if fault.rules == ("duplicate",) and fault.shape.startswith("exact"):
            (line,) = fault.lines
            before = {said(corpus, file, other) for other in range(1, line)}
            assert said(corpus, file, line) in before
