"""The cleaned copy: what goes, what is mended, what stays; every row in the ledger; nothing left for a second run."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attune.config import DataConfig
from attune.data.audit import take_in
from attune.data.cleaning.fix import FixLedger, fix, ledger_path, target_names
from attune.data.cleaning.seen import Seen, see
from attune.data.lint.catalog import Found
from attune.data.lint.rows import RowOptions
from attune.data.lint.waivers import Waiver, Waivers
from attune.data.reading.intake import Intake
from attune.data.survey import Survey
from attune.errors import ConfigError, DataError, RefusedError

LIMIT = 1 << 20


def survey(files: Sequence[str], held: Sequence[str] = ()) -> Seen:
    """Return what a survey says of files to be cleaned and of rows that are held out."""
    look, intakes = Survey(RowOptions()), [Intake(file, DataConfig()) for file in files]
    for intake in intakes:
        take_in(intake, "train", look)
    for file in held:
        take_in(Intake(file, DataConfig()), "valid", look)
    return see(look.finish(), intakes)


def cleaned(files: Sequence[Path], out: Path, held: Sequence[Path] = ()) -> FixLedger:
    """Fix files and prove what always holds: each row has its line in the ledger, and a second run changes nothing."""
    names, others = [str(file) for file in files], [str(file) for file in held]
    before = [file.read_bytes() for file in (*files, *held)]
    done = fix(
        names,
        out,
        lambda paths: survey(paths, others),
        seen=survey(names, others),
        max_row_bytes=LIMIT,
    )
    assert [file.read_bytes() for file in (*files, *held)] == before
    done.check()
    assert done.settled
    entries = ledger(done)
    assert len(entries) == done.rows
    counts = Counter(entry["done"] for entry in entries)
    assert (counts["kept"], counts["dropped"], counts["repaired"]) == (done.kept, done.dropped, done.repaired)
    assert [path.name for path in out.parent.iterdir() if path.name.startswith(f".{out.name}.")] == []
    written = [file.target for file in done.files if file.target]
    second = fix(
        written,
        out.with_name(f"second-{out.name}"),
        lambda paths: survey(paths, others),
        seen=survey(written, others),
        max_row_bytes=LIMIT,
    )
    assert (second.dropped, second.repaired, second.rounds) == (0, 0, 1)
    for first, again in zip(written, second.files, strict=True):
        assert Path(first).read_bytes() == Path(again.target).read_bytes()
    return done


def ledger(done: FixLedger) -> list[dict[str, Any]]:
    """Return the lines of a ledger."""
    return [json.loads(line) for line in done.path.read_text("utf-8").splitlines()]


def line(prompt: str, completion: str) -> bytes:
    """Return one row of JSONL."""
    return json.dumps({"prompt": prompt, "completion": completion}, ensure_ascii=False).encode() + b"\n"


WORDS = (
    "amber",
    "basin",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "heron",
    "iris",
    "jetty",
    "kelp",
    "lotus",
    "maple",
)


def prose(number: int) -> str:
    """Return a sentence that shares few pairs of words with those of other numbers, and is plainly English."""
    words = [str(word) for word in np.random.default_rng(number).permutation(WORDS)]
    return f"The {' '.join(words[:5])} and this is {' '.join(words[5:9])} that was {' '.join(words[9:])}."


DIRTY = {
    1: line("How far is " + prose(1), prose(101)),
    2: line("How far is " + prose(1), prose(101)),  # copy of 1
    3: line("How far is " + prose(3), ""),
    4: line("How far is " + prose(4), "I am {{name}}, made by {{author}}."),
    5: line("", prose(105)),
    6: line("Is it " + prose(6), "yes"),
    7: line("Is it " + prose(6), "no"),  # contradicts 6
    8: b'{ "prompt":"Why?  '
    + prose(8).encode()
    + b'", "completion" :"it\\u00e2\\u20ac\\u2122s \\u0000'
    + prose(108).encode()
    + b'"}\n',
    9: line("Which key? " + prose(9), "Use AKIA" + "Q3EGRCXJ7ZTLMN5P" + ". " + prose(109)),
    10: b"{broken\n",
    11: line("Why?  " + prose(8), "it\u2019s " + prose(108)),  # what 8 says once it is mended
    12: line("Who is " + prose(12), prose(112)),
    13: b"\xef\xbb\xbf" + line("Who was " + prose(13), prose(113)),  # a file that was appended with its mark
    14: line("Lost \ufffd " + prose(14), prose(114)),  # nobody knows what stood there
    15: line("Last " + prose(15), prose(115)).rstrip(b"\n"),
}


def test_a_dirty_file_is_cleaned_and_every_line_accounted_for(tmp_path: Path) -> None:
    """Each kind of row has its fate, its rule and its new line; bytes of kept rows are those of the source."""
    source, held, out = tmp_path / "a.jsonl", tmp_path / "held.jsonl", tmp_path / "clean.jsonl"
    source.write_bytes(b"".join(DIRTY.values()))
    held.write_bytes(DIRTY[12] + line("Other " + prose(77), prose(177)))
    done = cleaned([source], out, [held])
    fates = {entry["line"]: (entry["done"], entry["rule"], entry["out_line"]) for entry in ledger(done)}
    assert fates == {
        1: ("kept", "", 1),
        2: ("dropped", "duplicate", None),
        3: ("dropped", "empty-answer", None),
        4: ("dropped", "placeholder", None),
        5: ("dropped", "empty-prompt", None),
        6: ("kept", "conflict", 2),
        7: ("kept", "conflict", 3),
        8: ("repaired", "broken-characters", 4),
        9: ("kept", "secret", 5),
        10: ("kept", "bad-row", 6),
        11: ("dropped", "duplicate", None),
        12: ("dropped", "split-leak", None),
        13: ("repaired", "broken-characters", 7),
        14: ("kept", "broken-characters", 8),
        15: ("kept", "", 9),
    }
    written = out.read_bytes().splitlines(keepends=True)
    for number in (1, 6, 7, 9, 10, 14, 15):
        assert written[fates[number][2] - 1] == DIRTY[number]
    assert written[3] == DIRTY[8].replace(b"\\u00e2\\u20ac\\u2122", b"\\u2019").replace(b"\\u0000", b"")
    assert b"\xef\xbb\xbf" not in out.read_bytes()
    assert done.left == {"bad-row": 1, "broken-characters": 1, "conflict": 2, "secret": 1}
    assert done.rounds >= 2
    why = {entry["line"]: entry["why"] for entry in ledger(done)}
    assert why[2] == f"repeats {source}:1"
    assert why[11] == f"repeats {source}:8"
    assert why[12] == f"gives away {held}:1"
    assert "AKIA" not in ledger_path(out).read_text("utf-8")


def test_a_clean_file_is_copied_as_it_is(tmp_path: Path) -> None:
    """One round, every row kept, the same bytes."""
    source, out = tmp_path / "a.jsonl", tmp_path / "new" / "clean.jsonl"
    source.write_bytes(DIRTY[1] + b"\n" + DIRTY[6] + DIRTY[15])
    done = cleaned([source], out)
    assert out.read_bytes() == source.read_bytes()
    assert (done.rows, done.kept, done.rounds, dict(done.left)) == (3, 3, 1, {})
    assert out.stat().st_mode & 0o044 == source.stat().st_mode & 0o044


def test_csv_and_arrays_keep_their_form(tmp_path: Path) -> None:
    """A CSV file stays one with its header and a JSON array stays an array, when rows go and when they are mended."""
    rows = [("q " + prose(1), "a1"), ("q " + prose(1), "a1"), ("q " + prose(2), "na\u00c3\u00afve, yes"), ("q", "")]
    table, array = tmp_path / "a.csv", tmp_path / "a.json"
    table.write_bytes(("question,answer\r\n" + "".join(f'{q},"{a}"\r\n' for q, a in rows)).encode())
    array.write_text(json.dumps([{"question": q, "answer": a} for q, a in rows], indent=1), "utf-8")
    for source, out in ((table, tmp_path / "clean.csv"), (array, tmp_path / "clean.json")):
        done = cleaned([source], out)
        assert (done.kept, done.dropped, done.repaired) == (1, 2, 1)
    assert (tmp_path / "clean.csv").read_bytes().decode() == (
        f'question,answer\r\nq {prose(1)},"a1"\r\nq {prose(2)},"na\u00efve, yes"\r\n'
    )
    assert json.loads((tmp_path / "clean.json").read_text("utf-8")) == [
        {"question": f"q {prose(1)}", "answer": "a1"},
        {"question": f"q {prose(2)}", "answer": "na\u00efve, yes"},
    ]


def test_several_files_become_a_folder(tmp_path: Path) -> None:
    """Copies stand to each other as their sources did; a file that only repeats another one is not written."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    first, second, third = (tmp_path / "in" / name for name in ("a.jsonl", "sub/a.jsonl.gz", "b.json"))
    first.write_bytes(DIRTY[1] + DIRTY[6])
    second.write_bytes(gzip.compress(DIRTY[15] + b"\n" + DIRTY[1]))
    third.write_text(json.dumps([{"question": "How far is " + prose(1), "answer": prose(101)}]), "utf-8")
    done = cleaned([first, second, third], tmp_path / "out")
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")) == [
        "a.jsonl",
        "sub/a.jsonl",
    ]
    assert [file.target for file in done.files] == [
        str(tmp_path / "out/a.jsonl"),
        str(tmp_path / "out/sub/a.jsonl"),
        "",
    ]
    assert (tmp_path / "out/sub/a.jsonl").read_bytes() == DIRTY[15] + b"\n"
    assert [(entry["file"], entry["line"], entry["done"]) for entry in ledger(done)] == [
        (str(first), 1, "kept"),
        (str(first), 2, "kept"),
        (str(second), 1, "kept"),
        (str(second), 2, "dropped"),
        (str(third), 1, "dropped"),
    ]


def test_a_file_named_twice_loses_nothing(tmp_path: Path) -> None:
    """The same file given twice is cleaned once; a row is never a copy of itself."""
    source, out = tmp_path / "a.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(DIRTY[1] + DIRTY[6])
    names = [str(source), str(source)]
    done = fix(names, out, survey, seen=survey(names), max_row_bytes=LIMIT)
    assert (done.rows, done.kept) == (2, 2)


def test_copies_never_share_a_name(tmp_path: Path) -> None:
    """Packed and plain files of one name, Parquet beside JSONL, files outside the folder and Hub sets."""
    names = ["a.jsonl", "a.jsonl.gz", "b/../c.CSV"]
    for name in ("a.jsonl", "a.jsonl.gz", "c.CSV"):
        (tmp_path / name).write_text("text\nx\n")
    (tmp_path / "b").mkdir()
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    files = [*(f"{tmp_path}/{name}" for name in names), f"{tmp_path}/a.parquet", "hub:owner/set:train"]
    assert target_names(files) == ["a.jsonl", "a-2.jsonl", "c.CSV", "a-3.jsonl", "hub-owner-set-train.jsonl"]


@pytest.mark.parametrize("taken", ["out.jsonl", "out.jsonl.ledger.jsonl"])
def test_an_existing_file_is_never_overwritten(tmp_path: Path, taken: str) -> None:
    """Neither the copy nor its ledger; the file's bytes stay."""
    source = tmp_path / "a.jsonl"
    source.write_bytes(DIRTY[1])
    (tmp_path / taken).write_text("precious")
    with pytest.raises(RefusedError, match="never overwritten"):
        fix([str(source)], tmp_path / "out.jsonl", survey, seen=survey([str(source)]), max_row_bytes=LIMIT)
    assert (tmp_path / taken).read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 2


def test_the_source_is_never_the_target(tmp_path: Path) -> None:
    """Also where the target is another name of the same file."""
    source, other = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    source.write_bytes(DIRTY[1])
    other.symlink_to(source)
    for out in (source, other):
        with pytest.raises(RefusedError, match="is the file to be cleaned"):
            fix([str(source)], out, survey, seen=survey([str(source)]), max_row_bytes=LIMIT)
    assert source.read_bytes() == DIRTY[1]


@pytest.mark.parametrize(
    ("source", "out"), [("a.csv", "b.jsonl"), ("a.csv", "b.tsv"), ("a.jsonl", "b.csv"), ("a.jsonl", "b.jsonl.gz")]
)
def test_a_name_that_promises_another_form_is_refused(tmp_path: Path, source: str, out: str) -> None:
    """The copy would be read as something else than it is."""
    path = tmp_path / source
    path.write_bytes(b"question,answer\na,b\n" if source == "a.csv" else DIRTY[1])
    with pytest.raises(ConfigError):
        fix([str(path)], tmp_path / out, survey, seen=survey([str(path)]), max_row_bytes=LIMIT)
    assert not (tmp_path / out).exists()


@pytest.mark.parametrize(("keep", "text"), [(b"", "No row would be left of 2"), (b"7\n", "would all be bad ones")])
def test_a_copy_without_usable_rows_is_not_written(tmp_path: Path, keep: bytes, text: str) -> None:
    """A file of slots alone, with or without bad rows, is an error and leaves nothing behind."""
    source = tmp_path / "a.jsonl"
    source.write_bytes(DIRTY[3] + DIRTY[4] + keep)
    with pytest.raises(DataError, match=text):
        fix([str(source)], tmp_path / "out.jsonl", survey, seen=survey([str(source)]), max_row_bytes=LIMIT)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_failing_survey_leaves_nothing_behind(tmp_path: Path) -> None:
    """The copy appears whole or not at all."""
    source = tmp_path / "a.jsonl"
    source.write_bytes(DIRTY[1] + DIRTY[3])

    def look(_: Sequence[str]) -> Seen:
        raise DataError("no")

    with pytest.raises(DataError, match="no"):
        fix([str(source)], tmp_path / "out.jsonl", look, seen=survey([str(source)]), max_row_bytes=LIMIT)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_an_endless_fix_says_that_it_is_not_settled(tmp_path: Path) -> None:
    """A survey that finds a new row in every round is stopped after five, and the ledger still adds up."""
    source = tmp_path / "a.jsonl"
    source.write_bytes(b"".join(line("Say " + prose(number), prose(100 + number)) for number in range(9)))

    def look(paths: Sequence[str]) -> Seen:
        seen = survey(paths)
        return Seen([Found("placeholder", [0])], *(getattr(seen, name) for name in list(seen.__slots__)[1:]))

    done = fix([str(source)], tmp_path / "out.jsonl", look, seen=look([str(source)]), max_row_bytes=LIMIT)
    assert (done.rounds, done.settled, done.dropped, done.kept) == (5, False, 5, 4)
    done.check()


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("llamafactory_identity.json", {"dropped: placeholder": 85}),
        ("llamafactory_alpaca_en_demo.json", {"dropped: duplicate": 14}),
    ],
)
def test_real_sets_lose_what_is_known_to_be_wrong(
    shared: Path, tmp_path: Path, name: str, reasons: Mapping[str, int]
) -> None:
    """The identity set loses its 85 rows of slots, the Alpaca sample its 14 copies, and the rest stays as it was."""
    source = shared / "data" / "sft" / name
    files = [str(source)]
    done = fix(files, tmp_path / "clean.json", survey, seen=survey(files), max_row_bytes=LIMIT)
    assert {reason: done.reasons.get(reason) for reason in reasons} == reasons
    rows = json.loads(source.read_text("utf-8"))
    entries = ledger(done)
    stay = [row for row, entry in zip(rows, entries, strict=True) if entry["done"] == "kept"]
    if not done.repaired:
        assert json.loads((tmp_path / "clean.json").read_text("utf-8")) == stay


def test_what_the_user_lets_pass_is_not_touched(tmp_path: Path) -> None:
    """A rule that is allowed, or waived for a line, drops and mends nothing there, in any round."""
    source = tmp_path / "a.jsonl"
    source.write_bytes(DIRTY[1] + DIRTY[2] + DIRTY[4] + DIRTY[4].replace(b"far", b"near") + DIRTY[8] + DIRTY[9])
    waivers = Waivers(frozenset({"D06", "secret"}), (Waiver("D10", "a.jsonl", 3, 3), Waiver("broken-characters")))
    names, out = [str(source)], tmp_path / "out.jsonl"
    done = fix(names, out, survey, seen=survey(names), max_row_bytes=LIMIT, waivers=waivers)
    assert [(entry["done"], entry["rule"]) for entry in ledger(done)] == [
        ("kept", ""),
        ("kept", ""),
        ("kept", ""),
        ("dropped", "placeholder"),
        ("kept", ""),
        ("kept", ""),
    ]
    assert done.settled
    assert done.rounds == 1


def test_all_training_rows_that_give_a_held_out_row_away_go_at_once(tmp_path: Path) -> None:
    """Of a held-out row: its copies, near copies, rows with its question, and rows that hold most of it."""
    source, held, out = tmp_path / "a.jsonl", tmp_path / "held.jsonl", tmp_path / "out.jsonl"
    asked = [f"Tell me what you know about this: {prose(number)} {prose(number + 50)}" for number in range(4)]
    answers = [f"{prose(number + 100)} {prose(number + 150)} {prose(number + 200)}" for number in range(4)]
    clean = [line("Describe " + prose(number), prose(number + 400)) for number in range(300, 330)]
    same = [line(asked[0], answers[0])] * 2
    near = [line(asked[1], answers[1].replace(word, "other", 1)) for word in ("amber", "fjord", "lotus")]
    question = [line(asked[2], prose(number)) for number in (500, 501, 502)]
    covering = [line(f"Part {number} {prose(600 + number)}", answers[3] + prose(700 + number)) for number in (1, 2)]
    source.write_bytes(b"".join([*clean, *same, *near, *question, *covering]))
    held.write_bytes(b"".join(line(question, answer) for question, answer in zip(asked, answers, strict=True)))
    done = cleaned([source], out, [held])
    assert done.reasons == {"dropped: split-leak": 10}
    assert out.read_bytes() == b"".join(clean)
    assert done.rounds == 1
