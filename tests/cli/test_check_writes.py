"""`attune check` and what it writes: marked rows, a page, a log, a cleaned copy; all of it without torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from attune.bundled import tickets_folder
from attune.cli.main import main
from tests.cli.checking import CUT, add, once, severities
from tests.tiny import write_rows


def test_show_marks_what_is_learned(capsys: pytest.CaptureFixture[str], rows: Path, base: Path) -> None:
    """With a model the marked text is the answer and its terminator; without one the answer. N rows are shown."""
    answers = [json.loads(line)["completion"] for line in rows.read_text().splitlines()]
    ends = {(): "", ("--model", str(base)): "<|end|>"}
    for words, end in ends.items():
        capsys.readouterr()
        assert main(["check", str(rows), "--show", "3", *words]) == 0
        out = capsys.readouterr().out
        headings = re.findall(r"rows\.jsonl:(\d+) (used|held out)", out)
        assert [int(line) for line, _ in headings][:1] == [1]
        assert len(headings) == 3
        marked = re.findall(r"\[\[(.*?)\]\]", out)
        assert marked == [answers[int(line) - 1] + end for line, _ in headings]


def test_colours_reach_a_terminal_and_nothing_else_does(
    capsys: pytest.CaptureFixture[str], rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal learned text is coloured; an escape in the data is written out."""
    add(rows, {"prompt": "a \x1b[2J b", "completion": "c \x1b]0;title\x07 d"})
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    main(["check", str(rows), "--show", "41"])
    out = capsys.readouterr().out
    assert out.count("\x1b[30;42m") == out.count("\x1b[0m") == 41
    assert "\x1b[30;42mc [U+001B]]0;title[U+0007] d\x1b[0m" in out
    assert out.count("\x1b") == 82


def test_report_and_sarif(capsys: pytest.CaptureFixture[str], rows: Path, tmp_path: Path) -> None:
    """The page is whole and names no address to load from; the log has version, rule and place. Folders are made."""
    add(rows, CUT)
    page, log = tmp_path / "new" / "page.html", tmp_path / "other" / "log.sarif"
    code, _ = once(capsys, str(rows), "--report", str(page), "--sarif", str(log))
    assert code == 3
    html = page.read_text("utf-8")
    assert html.lstrip().lower().startswith("<!doctype html>")
    assert html.rstrip().endswith("</html>")
    assert re.findall(r"<(?:script|link|img|iframe|source)[^>]+(?:src|href)=[\"']?(?:https?:)?//", html) == []
    assert re.findall(r"url\([\"']?https?:|@import", html) == []
    assert "{{name}}" in html
    sarif = json.loads(log.read_text("utf-8"))
    assert sarif["version"] == "2.1.0"
    (result,) = (one for one in sarif["runs"][0]["results"] if one["ruleId"] == "D10/placeholder")
    place = result["locations"][0]["physicalLocation"]
    assert place == {"artifactLocation": {"uri": rows.as_uri()}, "region": {"startLine": 41}}


def test_files_that_cannot_be_written(capsys: pytest.CaptureFixture[str], rows: Path, tmp_path: Path) -> None:
    """A folder in the place of a file is said at once; a folder that cannot be made is no bug of ours."""
    for option in ("--report", "--sarif"):
        assert main(["check", str(rows), option, str(tmp_path)]) == 2
        assert capsys.readouterr().err == f"{option}: {tmp_path} is a folder. Name a file.\n"
        assert main(["check", str(rows), option, str(rows / "x")]) == 6
        assert "its folder cannot be made" in capsys.readouterr().err


def test_fix(capsys: pytest.CaptureFixture[str], rows: Path, tmp_path: Path) -> None:
    """What was done is printed, the next command checks the copy as the rows were, and finds nothing left to fix."""
    held, out = write_rows(tmp_path / "held.jsonl", 3, seed=9), tmp_path / "clean copy.jsonl"
    first = json.loads(rows.read_text().splitlines()[0])
    add(rows, CUT, first)
    assert main(["check", str(rows), "--data.valid", str(held), "--allow", "D15", "--fix", str(out)]) == 3
    lines = capsys.readouterr().out.splitlines()
    done = "40 of 42 rows; 1 dropped: placeholder, 1 dropped: duplicate."
    done = done if done in lines[0] else "40 of 42 rows; 1 dropped: duplicate, 1 dropped: placeholder."
    assert lines[0] == f"fixed     {out}: {done}"
    assert lines[-1] == f"next      attune check '{out}' --data.valid {held} --allow D15"
    assert out.read_text() == "".join(f"{line}\n" for line in rows.read_text().splitlines()[:40])
    code, document = once(capsys, str(out), "--data.valid", str(held), "--fix", str(tmp_path / "again.jsonl"))
    assert (code, document["fixed"]["reasons"], document["fixed"]["kept"]) == (0, {}, 40)
    assert {"duplicate", "placeholder"} & set(severities(document)) == set()


def test_fix_never_overwrites(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A copy that exists is refused with exit code 7 before a row is read: the rows here cannot even be read."""
    broken, out = tmp_path / "a.jsonl", tmp_path / "out.jsonl"
    broken.write_bytes(b"\x00\xff" * 50)
    out.write_text("mine")
    assert main(["check", str(broken), "--fix", str(out)]) == 7
    assert capsys.readouterr().err.startswith(f"{out} exists already")
    assert out.read_text() == "mine"


def test_a_check_without_a_model_needs_no_torch(rows: Path, tmp_path: Path) -> None:
    """The whole verb, with page, log, copy and real prompts, imports neither torch nor transformers."""
    real = tickets_folder() / "real_prompts.jsonl"
    train = tickets_folder() / "valid.jsonl"
    words = ["check", str(train), "--against", str(real), "--show", "2"]
    for option, name in (("--report", "page.html"), ("--sarif", "log.sarif"), ("--fix", "copy.jsonl")):
        words += [option, str(tmp_path / name)]
    heavy = ("torch", "transformers", "peft", "datasets")
    code = f"import sys; from attune.cli.main import main; code = main({words!r})"
    code += f"; print(code, sorted(name for name in {heavy!r} if name in sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.stdout.splitlines()[-1] == "0 []", ended.stdout + ended.stderr
    assert {path.name for path in tmp_path.iterdir()} >= {"page.html", "log.sarif", "copy.jsonl"}
