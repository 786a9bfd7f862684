"""What may pass: rules by id or name, and the lines of an ignore file with what is wrong in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from attune.data.lint.waivers import Waiver, Waivers, open_waivers
from attune.errors import ConfigError
from attune.types import Place


def ignoring(folder: Path, text: str) -> Waivers:
    """Return the waivers of an ignore file."""
    path = folder / "ignore.txt"
    path.write_text(text, encoding="utf-8")
    return open_waivers([], str(path))


def passed(waivers: Waivers, rule: str, file: str = "data/rows.jsonl") -> list[int]:
    """Return the first lines of a file that pass for a rule."""
    return [line for line in range(1, 10) if waivers.passes(rule, Place(file, line, 0))]


@pytest.mark.parametrize("rule", ["D15", "secret"])
@pytest.mark.parametrize(
    ("where", "lines"),
    [
        ("", [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("data/rows.jsonl", [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("rows.jsonl:3", [3]),
        ("rows.jsonl:3-5", [3, 4, 5]),
        ("  data/rows.jsonl:7-7  # looked at", [7]),
        ("ows.jsonl", []),
        ("other.jsonl:3", []),
        ("rows.jsonl:12", []),
    ],
)
def test_a_line_names_rule_file_and_lines(tmp_path: Path, rule: str, where: str, lines: list[int]) -> None:
    """A rule by id or name, a file by its path or the end of it, one line or a range with both ends."""
    assert passed(ignoring(tmp_path, f"{rule} {where}\n"), "secret") == lines


def test_an_id_means_all_its_rules_and_a_name_only_its_own(tmp_path: Path) -> None:
    """D15 is keys and personal data; secret is keys."""
    assert passed(ignoring(tmp_path, "D15 rows.jsonl:1"), "personal-data") == [1]
    assert passed(ignoring(tmp_path, "secret rows.jsonl:1"), "personal-data") == []


def test_comments_blank_lines_and_file_names(tmp_path: Path) -> None:
    """Comments and blank lines say nothing; a name may hold blanks and colons; a byte order mark is no letter."""
    text = "\ufeffD05 my rows:2.jsonl:4 # why\n\n   # secret\n\t\nD06\n"
    waivers = ignoring(tmp_path, text)
    assert waivers.lines == (Waiver("D05", "my rows:2.jsonl", 4, 4), Waiver("D06"))
    assert passed(waivers, "conflict", "x/my rows:2.jsonl") == [4]
    assert passed(waivers, "secret") == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("secrets rows.jsonl", 'ignore.txt:2 secrets is no rule of the check - did you mean "secret"?'),
        ("D5", 'ignore.txt:2 D5 is no rule of the check - did you mean "D05"?'),
        ("rows.jsonl:3", "ignore.txt:2 rows.jsonl:3 is no rule of the check. Rules: D01, D02,"),
        ("layout", "ignore.txt:2 layout is no rule of the check"),
        ("D05 rows.jsonl:0", "ignore.txt:2 D05 rows.jsonl:0: lines count from 1"),
        ("D05 rows.jsonl:9-3", "ignore.txt:2 D05 rows.jsonl:9-3: the last line is before the first"),
    ],
)
def test_faults_of_an_ignore_file(tmp_path: Path, line: str, said: str) -> None:
    """A rule that does not exist and lines that cannot be are told by file and line."""
    with pytest.raises(ConfigError) as caught:
        ignoring(tmp_path, f"# mine\n{line}\n")
    assert said in str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_an_ignore_file_that_cannot_be_read(tmp_path: Path) -> None:
    """It is named with its setting, whether it is missing, a folder or not text."""
    (tmp_path / "latin.txt").write_bytes("D05 caf\u00e9.jsonl\n".encode("latin-1"))
    for name in ("gone.txt", "", "latin.txt"):
        with pytest.raises(ConfigError, match=r"^data\.ignore: .* cannot be read: "):
            open_waivers([], str(tmp_path / name))


def test_allowed_rules() -> None:
    """Ids and names are allowed as they are spelt, also those of findings that are no rules about rows."""
    waivers = open_waivers(["D05", "secret", "T03", "layout"], "")
    assert waivers.allows("D05", "conflict")
    assert waivers.allows("D05", "several-answers")
    assert waivers.allows("D15", "secret")
    assert not waivers.allows("D15", "personal-data")
    assert waivers.allows("T03", "rewritten-history")
    assert waivers.allows("R01", "layout")
    assert not waivers.lines


@pytest.mark.parametrize("word", ["D99", "conflicts", "bad-row", "R02", "d05", ""])
def test_an_unknown_allowed_rule_is_refused(word: str) -> None:
    """Bad rows have a setting of their own, and a misspelt rule allows nothing by accident."""
    with pytest.raises(ConfigError, match=f"^data.allow: {word} is no rule of the check( - did you mean|. Rules: )"):
        open_waivers(["D05", word], "")
