"""Several files as one set of rows: order, copies, weights, lots drawn together, and the fates of their rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attune.config import DataConfig
from attune.data.collect import Collection
from attune.data.corpus import STATES
from attune.data.encoding.mask import Masker
from attune.data.encoding.overlong import Policy
from attune.data.encoding.template import open_template
from attune.data.encoding.tokenizer import load_tokenizer
from attune.data.join import Joined, join_entries
from attune.data.lint.rows import RowOptions
from attune.data.reading.intake import Intake
from attune.data.survey import Survey
from tests.data.bad_inputs import write_tokenizer
from tests.data.sets import pair, pairs, write_set

A, B = pairs(5, seed=1), pairs(4, seed=2)


class Taken:
    """Files taken in one after another, with the survey that saw them."""

    def __init__(self, folder: Path, *sets: list[Any], limit: int = 4096, policy: Policy = "drop", **data: Any) -> None:
        self.survey = Survey(RowOptions())
        template = open_template("plain", load_tokenizer(write_tokenizer(folder / "t")))
        self.collections = []
        for number, rows in enumerate(sets):
            path = write_set(folder / f"{'abc'[number]}.jsonl", rows)
            intake = Intake(path, DataConfig(**data), "")
            masker = Masker(template, "completion")
            collection = Collection(intake, masker, self.survey, part="train", limit=limit, policy=policy)
            collection.run(draw_seed=3)
            self.collections.append(collection)

    def joined(self, *weights: float) -> Joined:
        """Return the files as one set; without weights every row comes once."""
        return Joined(self.collections, weights or (1.0,) * len(self.collections))


def test_rows_of_all_files_in_order(tmp_path: Path) -> None:
    """Tokens, places and sources stand in the order of the files; each piece knows its file, row and survey number."""
    taken = Taken(tmp_path, A, [B[0], pair("q", ""), *B[1:]])
    joined = taken.joined()
    assert joined.file_of.tolist() == [0] * 5 + [1] * 4
    assert joined.row_of.tolist() == [0, 1, 2, 3, 4, 0, 2, 3, 4]
    assert joined.numbers.tolist() == list(range(9))
    assert [f"{Path(place.file).name}:{place.line}" for place in joined.corpus.places] == [
        *(f"a.jsonl:{line}" for line in range(1, 6)),
        *(f"b.jsonl:{line}" for line in (1, 3, 4, 5)),
    ]
    alone = [collection.corpus() for collection in taken.collections]
    for row in range(9):
        tokens, learned = joined.corpus.row(row)
        own_tokens, own_learned = alone[int(row > 4)].row(row - 5 * int(row > 4))
        assert tokens.tolist() == own_tokens.tolist()
        assert learned.tolist() == own_learned.tolist()


def test_weights_of_files_are_copies_of_their_rows(tmp_path: Path) -> None:
    """Each row comes as often as its file's weight says; where all weights are 1 there are no copies to count."""
    taken = Taken(tmp_path, A, B)
    assert taken.joined().corpus.copies is None
    copies = taken.joined(2.5, 0.5).corpus.copies
    assert copies is not None
    assert copies.tolist() == [2.5] * 5 + [0.5] * 4
    assert copies.dtype == np.float32


def test_one_file_with_weights_of_its_own(tmp_path: Path) -> None:
    """Rows of other files weigh 1, whichever file comes first."""
    heavy = [{**row, "weight": 0.5} for row in B]
    for sets, weights in (((A, heavy), [1.0] * 5 + [0.5] * 4), ((heavy, A), [0.5] * 4 + [1.0] * 5)):
        corpus = Taken(tmp_path, *sets).joined().corpus
        assert corpus.weights is not None
        assert corpus.weights.tolist() == np.repeat(weights, corpus.lengths).tolist()
    assert Taken(tmp_path, A, B).joined().corpus.weights is None


def test_a_group_draws_the_lot_of_its_first_row(tmp_path: Path) -> None:
    """Rows of one group have one lot, also in different files; others keep their own."""
    joined = Taken(tmp_path, A, B).joined()
    groups = np.array([0, 1, 0, 3, 4, 1, 6, 7, 0])
    draws = joined.draws_of(groups)
    assert len(set(joined.draws.tolist())) == 9
    assert draws.tolist() == joined.draws[[0, 1, 0, 3, 4, 1, 6, 7, 0]].tolist()


def test_pieces_of_a_row_stay_together(tmp_path: Path) -> None:
    """A row that is split into pieces draws one lot and is a copy with all of its pieces."""
    long = pair("what?", "so many words " * 20)
    taken = Taken(tmp_path, [A[0], long], [long, B[0]], limit=150, policy="split")
    joined = taken.joined()
    pieces = [int(np.count_nonzero(joined.numbers == number)) for number in range(4)]
    assert pieces[1] == pieces[2] > 1
    groups = taken.survey.finish().duplicates
    assert len(set(joined.draws_of(groups.cluster_of)[np.isin(joined.numbers, [1, 2])].tolist())) == 1
    assert joined.repeats(groups).tolist() == (joined.numbers == 2).tolist()


def test_repeats_are_later_rows_of_any_file(tmp_path: Path) -> None:
    """The first of equal rows is no repeat; spaces and capitals make no other row, other words do."""
    shouted = pair(A[1]["prompt"].upper(), f" {A[1]['completion']}  ")
    taken = Taken(tmp_path, [*A, A[3]], [B[0], A[3], shouted, pair(B[0]["prompt"], "another")])
    repeats = taken.joined().repeats(taken.survey.finish().duplicates)
    assert np.flatnonzero(repeats).tolist() == [5, 7, 8]


@pytest.mark.parametrize("policy", ["cut", "drop"])
def test_marked_rows_change_their_state(tmp_path: Path, policy: Policy) -> None:
    """Only chosen rows are marked, each in its own file; one that was cut before says so."""
    long = pair("what?", "so many words " * 20)
    taken = Taken(tmp_path, [long, *A], B, limit=150, policy=policy)
    joined = taken.joined()
    chosen = np.zeros(joined.corpus.num_rows, bool)
    chosen[[0, -1]] = True
    joined.mark(chosen, "held_out", "validation")
    entries = join_entries(taken.collections)
    told = {f"{Path(e.place.file).name}:{e.place.line}": (e.state, e.reason) for e in entries[:]}
    assert told.pop("b.jsonl:4") == ("held_out", "validation")
    if policy == "cut":
        assert told.pop("a.jsonl:1") == ("held_out", "validation, cut: too long")
    else:
        assert told.pop("a.jsonl:1") == ("dropped", "too long")
        assert told.pop("a.jsonl:2") == ("held_out", "validation")
    assert set(told.values()) == {("used", "")}


def test_reasons_of_several_files_are_one_list(tmp_path: Path) -> None:
    """Words that two files note in another order mean the same in the joined ledger."""
    bad = {"prompt": "a", "completion": 3}
    taken = Taken(tmp_path, [A[0], pair("q", ""), bad], [bad, B[0], pair("q", "")], skip_bad_rows=9)
    entries = join_entries(taken.collections)
    assert len(set(entries.words)) == len(entries.words)
    reasons = [entries[row].reason for row in range(6)]
    assert reasons == ["", "empty answer", reasons[2], reasons[2], "", "empty answer"]
    assert reasons[2].startswith("bad row: ")
    assert [STATES[state] for state in entries.states] == ["used", "dropped", "dropped", "dropped", "used", "dropped"]


@pytest.mark.parametrize("kept", [1, 200])
def test_examples_come_back_in_order(tmp_path: Path, kept: int) -> None:
    """The rows of some pieces as they were read, kept in memory or read once more."""
    taken = Taken(tmp_path, A, [pair("q", ""), *B], valid_rows=kept)
    assert [len(collection.lowest) for collection in taken.collections] == [min(kept, 5), min(kept, 4)]
    joined = taken.joined()
    chosen = np.zeros(9, bool)
    chosen[[1, 4, 5, 7]] = True
    examples = joined.examples_of(chosen)
    said = [(example.messages[0].content, example.messages[-1].content) for example in examples]
    assert said == [(row["prompt"], row["completion"]) for row in (A[1], A[4], B[0], B[2])]
    assert [example.place for example in examples] == list(joined.corpus.keep(chosen).places)
