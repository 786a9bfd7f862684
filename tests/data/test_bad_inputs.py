"""Each bad input gets its message, its error class and a ledger that reconciles."""

from __future__ import annotations

from pathlib import Path

import pytest

from attune.config import Config
from attune.data.encoding.tokenizer import load_tokenizer
from attune.data.prepare import Prepared, prepare
from attune.errors import UserError
from tests.data import bad_inputs as bad

CASES = [(number, variant) for number in bad.NUMBERS for variant in range(bad.VARIANTS.get(number, 1))]


def prepare_input(case: bad.BadInput, folder: Path, **more: object) -> Prepared:
    """Return the prepared rows of a bad input."""
    tokenizer = case.tokenizer_folder or bad.write_tokenizer(folder / "plain")
    values = {"data.train": str(case.path), **case.overrides, **more}
    return prepare(Config().with_values(values), load_tokenizer(tokenizer), model_length=None)


@pytest.mark.parametrize(("number", "variant"), CASES)
def test_every_bad_input_gets_its_message(number: int, variant: int, tmp_path: Path) -> None:
    """The message has the place, the value and the next step, in at most six lines; accepted inputs say it too."""
    case = bad.write_bad_input(number, tmp_path, variant)
    if case.expect_error is None:
        prepared = prepare_input(case, tmp_path)
        said = "\n".join([*prepared.layouts.values(), *(finding.message for finding in prepared.findings)])
    else:
        with pytest.raises(UserError) as caught:
            prepare_input(case, tmp_path)
        said = str(caught.value)
        assert type(caught.value) is case.expect_error
        assert len(said.splitlines()) <= 6
        assert max(map(len, said.splitlines())) < 250
    for text in case.expect_text:
        assert text in said


@pytest.mark.parametrize(("number", "variant"), CASES)
def test_the_ledger_reconciles_once_bad_rows_may_go(number: int, variant: int, tmp_path: Path) -> None:
    """All rows are accounted for, and as many are dropped as are bad."""
    case = bad.write_bad_input(number, tmp_path, variant)
    if case.dropped is None:
        pytest.skip("nothing of this input can be used")
    prepared = prepare_input(case, tmp_path, **{"data.skip_bad_rows": bad.ROWS})
    prepared.ledger.check()
    assert prepared.ledger.rows == len(prepared.entries) == bad.ROWS
    assert prepared.ledger.counts["dropped"] == case.dropped
    held = prepared.valid.num_rows if prepared.valid else 0
    assert prepared.train.num_rows + held == bad.ROWS - case.dropped
    assert sum(entry.state == "dropped" and bool(entry.reason) for entry in prepared.entries) == case.dropped


def test_one_bad_row_too_many_is_refused(tmp_path: Path) -> None:
    """data.skip_bad_rows is a limit: as many bad rows may go, and not one more."""
    case = bad.write_bad_input(23, tmp_path)
    assert prepare_input(case, tmp_path, **{"data.skip_bad_rows": 10}).ledger.counts["dropped"] == 10
    with pytest.raises(UserError, match="10 bad rows of 20"):
        prepare_input(case, tmp_path, **{"data.skip_bad_rows": 9})


def test_all_bad_rows_are_found_in_one_pass(tmp_path: Path) -> None:
    """Faults of several kinds are grouped, each with its first line and the lines of the others."""
    faults = {4: {"messages": []}, 6: {"messages": []}, 9: b"42\n", 12: {"messages": [bad.turn("user", "a")]}}
    rows = [faults.get(line, bad.good_row(line)) for line in range(1, 21)]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(row if isinstance(row, bytes) else bad._line(row) for row in rows))
    tokenizer = load_tokenizer(bad.write_tokenizer(tmp_path / "t"))
    with pytest.raises(UserError) as caught:
        prepare(Config().with_values({"data.train": str(path)}), tokenizer, model_length=None)
    said = str(caught.value)
    assert "rows.jsonl:4 messages is empty (1 more: line 6)" in said
    assert "rows.jsonl:9 is a number" in said
    assert "rows.jsonl:12 has no assistant turn" in said
    assert "4 bad rows of 20; 16 good." in said
    assert "data.skip_bad_rows = 4" in said
