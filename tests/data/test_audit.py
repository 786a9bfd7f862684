"""A check of files without a model: every row counted once, and what is found is what training would find."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from attune.config import Config
from attune.data.audit import Audit, audit, count_states
from attune.data.lint.waivers import Waiver, Waivers, open_waivers
from attune.errors import DataError
from attune.types import Finding
from tests.data.duplicates.rows import changed
from tests.data.sets import pair, pairs, prepare_config, settings_of, write_set

CLEAN = pairs(40)
BAD = {"prompt": "a", "completion": 3}
OF_TOKENS = {"truncation", "no-stop", "template", "control-text", "lossy-tokenizer", "encoded-in-parts"}


def audited(config: Config, **waived: Any) -> Audit:
    """Return the audit of a config; bad rows are findings."""
    return audit(config.with_values({"data.skip_bad_rows": 99}), Waivers(**waived), with_coverage=False)


def named(findings: Sequence[Finding], name: str) -> Finding:
    """Return the only finding of a name."""
    (finding,) = [finding for finding in findings if finding.name == name]
    return finding


@pytest.fixture
def dirty(tmp_path: Path) -> Config:
    """Two training files, validation and test rows with faults of many kinds, and a file that is no data."""
    slot = pair("Who is it?", "I am {{user_title}}, made by {{company}}.")
    card = pair("Where do I write to?", "Write to jane.miller@megacorp-mail.net, or call +1 415 867 5309.")
    first = [*CLEAN[:10], CLEAN[2], slot, BAD, pair("q", ""), {**CLEAN[11], "weight": 0}]
    near = pair("how do they " + " ".join(row["prompt"] for row in CLEAN[30:33]), CLEAN[33]["completion"])
    again = pair(changed(near["prompt"], [4]), near["completion"])
    second = [*CLEAN[12:20], card, near, again, CLEAN[4]]
    write_set(tmp_path / "rows" / "a.jsonl", first)
    write_set(tmp_path / "rows" / "b.jsonl", second)
    (tmp_path / "rows" / "notes.md").write_text("nothing")
    valid = write_set(tmp_path / "rows" / "valid.jsonl", [*CLEAN[20:24], CLEAN[13], pair("q", "")])
    test = write_set(tmp_path / "test.jsonl", [*CLEAN[24:27], CLEAN[14]])
    return settings_of(str(tmp_path / "rows"), **{"data.valid": valid, "data.test": [test]})


def test_every_row_is_in_one_state(dirty: Config) -> None:
    """Rows without a model are used, dropped or held out, and copies are duplicates where they shall be dropped."""
    looked = audited(dirty)
    total = sum(file.intake.rows for file in looked.files)
    assert total == 15 + 12 + 6 + 4
    keeps = count_states(looked.files, looked.surveyed, drops_copies=False)
    assert keeps == {"used": 24, "cut": 0, "dropped": 4, "duplicate": 0, "held_out": 9}
    drops = count_states(looked.files, looked.surveyed, drops_copies=True)
    assert drops == keeps | {"used": 22, "duplicate": 2}
    assert sum(drops.values()) == total


@pytest.mark.parametrize("duplicates", ["keep", "drop"])
def test_counts_are_those_of_training(dirty: Config, tmp_path: Path, duplicates: str) -> None:
    """Where every row fits, the ledger of a check without a model is the one of a preparation with it."""
    config = dirty.with_values({"data.skip_bad_rows": 1, "data.duplicates": duplicates})
    looked = audited(config)
    prepared = prepare_config(config, tmp_path)
    assert prepared.ledger.counts == count_states(looked.files, looked.surveyed, drops_copies=duplicates == "drop")


def test_findings_are_those_of_training(dirty: Config, tmp_path: Path) -> None:
    """With and without a model the same findings about the same rows, apart from those that count tokens."""
    config = dirty.with_values({"data.skip_bad_rows": 1})
    without, with_model = audited(config).findings, prepare_config(config, tmp_path).findings
    assert {"duplicate", "near-duplicate", "placeholder", "split-leak", "personal-data", "bad-row", "empty-answer"} <= {
        finding.name for finding in without
    }
    told = [[finding for finding in some if finding.name not in OF_TOKENS] for some in (without, with_model)]
    assert told[0] == told[1]


def test_files_come_with_part_and_weight(tmp_path: Path) -> None:
    """Each file says what its rows are for and how often they come."""
    a, v = write_set(tmp_path / "a.jsonl", CLEAN[:5]), write_set(tmp_path / "v.jsonl", CLEAN[5:9])
    looked = audited(settings_of([{"path": a, "weight": 3.0}], **{"data.valid": v}))
    assert [(file.intake.path, file.part, file.weight) for file in looked.files] == [(a, "train", 3.0), (v, "valid", 1)]
    assert [file.intake.rows for file in looked.files] == [5, 4]


def test_findings_are_sorted_and_places_are_right(dirty: Config) -> None:
    """Errors first; a finding of two files names each row by file and line."""
    findings = audited(dirty).findings
    order = [("error", "warning", "info").index(finding.severity) for finding in findings]
    assert order == sorted(order)
    copies = named(findings, "duplicate").examples
    assert [(Path(e["file"]).name, e["line"]) for e in copies] == [("a.jsonl", 11), ("b.jsonl", 12)]
    leaks = named(findings, "split-leak").examples
    assert [(Path(e["file"]).name, e["line"]) for e in leaks] == [("valid.jsonl", 5), ("test.jsonl", 4)]
    assert "notes.md" in named(findings, "files-not-read").message


def test_waivers_hold_here_too(dirty: Config) -> None:
    """An ignored row leaves its finding, an allowed finding becomes an info."""
    waivers = Waivers(frozenset(["D04"]), (Waiver("placeholder", "a.jsonl", 12, 12), Waiver("D06", "b.jsonl")))
    findings = audit(dirty.with_values({"data.skip_bad_rows": 1}), waivers, with_coverage=False).findings
    assert "placeholder" not in {finding.name for finding in findings}
    assert "near-duplicate" not in {finding.name for finding in findings}
    assert named(findings, "duplicate").rows == 1
    assert named(findings, "split-leak").severity == "info"


def test_long_rows_are_an_estimate(tmp_path: Path) -> None:
    """Without a tokenizer words count, training rows only, and one row is told as one."""
    long = pair("why?", " ".join(row["completion"] for row in CLEAN[:30]))
    path = write_set(tmp_path / "a.jsonl", [*CLEAN[30:35], long])
    valid = write_set(tmp_path / "v.jsonl", [*CLEAN[36:39], pair("how?", long["completion"])])
    config = settings_of(path, **{"data.max_length": 100, "data.valid": valid})
    finding = named(audited(config).findings, "truncation")
    assert (finding.severity, finding.rows, [e["line"] for e in finding.examples]) == ("warning", 1, [6])
    assert "1 row (10.0%) is longer than data.max_length (line 6): an estimate" in finding.message
    roomy = config.with_values({"data.max_length": "auto"})
    assert "truncation" not in {one.name for one in audited(roomy).findings}


def test_ignored_long_rows_are_passed_over(tmp_path: Path) -> None:
    """A line of an ignore file counts for long rows as for any other."""
    long = pair("why?", " ".join(row["completion"] for row in CLEAN[:30]))
    config = settings_of(write_set(tmp_path / "a.jsonl", [*CLEAN[30:35], long]), **{"data.max_length": 100})
    (tmp_path / "ignore").write_text("D12 a.jsonl:6\n")
    findings = audit(config, open_waivers([], str(tmp_path / "ignore")), with_coverage=False).findings
    assert "truncation" not in {finding.name for finding in findings}


def test_a_file_of_no_use_ends_the_check(tmp_path: Path) -> None:
    """What cannot be read at all, or has no known layout, is no finding but a fault with its file."""
    good = write_set(tmp_path / "a.jsonl", CLEAN[:3])
    odd = write_set(tmp_path / "odd.jsonl", [{"x": 1}])
    with pytest.raises(DataError, match=r"odd\.jsonl:1 has keys: x"):
        audited(settings_of([good, odd]))
