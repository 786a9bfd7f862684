"""`attune check` and what it is asked to look at: test sets, schemas, real prompts, several files, waivers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import attune
from attune.bundled import tickets_folder
from attune.cli.main import main
from tests.cli.checking import CUT, add, once, severities
from tests.tiny import write_rows

KEYS = {"rows", "ok", "ledger", "tokens", "findings", "files", "lengths", "coverage", "duplicates", "leaks", "template"}
KEYS |= {"allowed", "augmented", "mismatch"}


@pytest.mark.parametrize("with_model", [False, True])
def test_test_sets(
    capsys: pytest.CaptureFixture[str], rows: Path, base: Path, tmp_path: Path, with_model: bool
) -> None:
    """Rows of a test set that are trained on are named, of a file as of a folder; its rows are held out."""
    folder = tmp_path / "benchmark"
    folder.mkdir()
    long = {"prompt": "Which way leads from the old mill to the castle?", "completion": "The one along the river."}
    add(rows, long)
    write_rows(folder / "t.jsonl", 5, seed=7)
    add(folder / "t.jsonl", long)
    for named in (folder, folder / "t.jsonl"):
        words = [str(rows), "--test", str(named), *(["--model", str(base)] if with_model else [])]
        code, document = once(capsys, *words)
        assert code == 3
        assert severities(document)["split-leak"] == "error"
        leaks = {(Path(leak["file"]).name, leak["line"], leak["train_line"]) for leak in document["leaks"]}
        assert ("t.jsonl", 6, 41) in leaks
        assert {Path(file["file"]).name: file["part"] for file in document["files"]} == {
            "rows.jsonl": "train",
            "t.jsonl": "test",
        }
        assert document["ledger"]["held_out"] >= 6
        assert sum(document["ledger"].values()) == document["rows"]
    main(["check", str(rows), "--test", str(folder)])
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"--data.test {folder} --fix OUT")


def test_schema(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Answers that a JSON Schema refuses are named; one that meets it is not."""
    path, schema = tmp_path / "a.jsonl", tmp_path / "schema.json"
    schema.write_text(
        json.dumps({"type": "object", "required": ["topic"], "properties": {"topic": {"type": "string"}}})
    )
    answers = [{"topic": f"word{number}"} for number in range(20)]
    answers[4] = {"topic": 7}  # type: ignore[dict-item]
    answers[9] = {"subject": "x"}
    add(path, *({"prompt": f"Which topic is {at}?", "completion": json.dumps(one)} for at, one in enumerate(answers)))
    code, document = once(capsys, str(path), "--schema", str(schema))
    (finding,) = (one for one in document["findings"] if one["name"] == "broken-structure")
    assert (code, [place["line"] for place in finding["examples"]]) == (3, [5, 10])


def test_allow_and_ignore(capsys: pytest.CaptureFixture[str], rows: Path, tmp_path: Path) -> None:
    """An allowed rule is told as an info and the code is 0; an ignored place is not told. Training is told the same."""
    add(rows, CUT)
    code, document = once(capsys, str(rows), "--allow", "secret,placeholder")
    assert (code, document["ok"], severities(document)["placeholder"]) == (0, True, "info")
    assert document["allowed"] == ["secret", "placeholder"]
    (finding,) = (one for one in document["findings"] if one["name"] == "placeholder")
    assert finding["message"].startswith("allowed: ")
    main(["check", str(rows), "--allow", "D10"])
    assert capsys.readouterr().out.splitlines()[-1] == f"next      attune train {rows} --allow D10 --model FOLDER"
    ignore = tmp_path / "ignored.txt"
    ignore.write_text("D10 rows.jsonl:41  # a template on purpose\n")
    code, document = once(capsys, str(rows), "--ignore", str(ignore))
    assert (code, "placeholder" in severities(document)) == (0, False)
    ignore.write_text("D10 rows.jsonl:40\n")
    assert once(capsys, str(rows), "--ignore", str(ignore))[0] == 3


def test_several_files_from_the_command_line_and_from_python(
    capsys: pytest.CaptureFixture[str], rows: Path, tmp_path: Path
) -> None:
    """Files are checked together: copies in another file count. Python gives the same document."""
    other = tmp_path / "other.jsonl"
    other.write_text("".join(rows.read_text().splitlines(keepends=True)[:5]))
    code, document = once(capsys, str(rows), str(other))
    assert (code, document["rows"], document["duplicates"]["exact"], len(document["files"])) == (0, 45, 5, 2)
    (finding,) = (one for one in document["findings"] if one["name"] == "duplicate")
    assert "5 of them repeat a row of another file" in finding["message"]
    assert {Path(place["file"]).name for place in finding["examples"]} == {"other.jsonl"}
    assert attune.check([rows, other]) == document
    assert set(document) == KEYS


def test_against_from_the_command_line_and_from_python(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Real prompts are compared; the document holds the figures, and Python gives the same."""
    train, real = tmp_path / "train.jsonl", tickets_folder() / "real_prompts.jsonl"
    train.write_bytes(b"".join((tickets_folder() / "valid.jsonl").read_bytes().splitlines(keepends=True)))
    code, document = once(capsys, str(train), "--against", str(real))
    assert (code, document["mismatch"]["rows_real"], severities(document)["mismatch"]) == (0, 150, "warning")
    assert attune.check([train], against=real) == document


@pytest.mark.parametrize(
    ("words", "code"),
    [(["nothing.jsonl"], 3), (["--allow", "D99"], 2), (["--against", "nothing.jsonl"], 3), (["-x"], 2)],
)
def test_one_document_even_where_there_is_nothing_to_say(
    capsys: pytest.CaptureFixture[str], rows: Path, words: list[str], code: int
) -> None:
    """With --json stdout is one JSON document whatever happens, with the contract's keys or the error's."""
    given = words if words[0] == "nothing.jsonl" else [str(rows), *words]
    ended, document = once(capsys, *given)
    assert ended == code
    if code == 3:
        assert {"rows", "ok", "ledger", "tokens", "findings"} <= set(document)
        assert (document["ok"], document["findings"][0]["severity"]) == (False, "error")
    else:
        assert set(document) == {"error", "exit_code"}
