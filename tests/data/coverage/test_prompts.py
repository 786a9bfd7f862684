"""Real prompts: read from every layout, with or without answers; a row that asks nothing is named."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from attune.bundled import tickets_folder
from attune.config import Config, DataConfig
from attune.data.audit import audit
from attune.data.coverage.prompts import compare_with_file, read_prompts
from attune.data.lint.waivers import Waivers
from attune.errors import DataError

CONFIG = DataConfig()
ASKED = "Where is my parcel?"
LAYOUTS: dict[str, dict[str, Any]] = {
    "messages": {"messages": [{"role": "user", "content": ASKED}, {"role": "assistant", "content": "On its way."}]},
    "messages without an answer": {"messages": [{"role": "user", "content": ASKED}]},
    "system first": {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": ASKED}]},
    "several turns": {
        "messages": [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hi"},
            {"role": "user", "content": ASKED},
        ]
    },
    "content in parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": ASKED}]}]},
    "messages as text": {"messages": json.dumps([{"role": "user", "content": ASKED}])},
    "sharegpt": {"conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": "On its way."}]},
    "prompt and completion": {"prompt": ASKED, "completion": "On its way."},
    "prompt alone": {"prompt": ASKED},
    "prompt of turns": {"prompt": [{"role": "user", "content": ASKED}], "completion": "On its way."},
    "alpaca": {"instruction": ASKED, "input": "", "output": "On its way."},
    "alpaca without a question": {"instruction": " ", "input": ASKED, "output": "On its way."},
    "question": {"question": ASKED, "id": 7},
    "query": {"query": ASKED},
    "input": {"input": ASKED},
    "plain text": {"text": ASKED},
}


def write(path: Path, *rows: dict[str, Any]) -> str:
    """A JSONL file of rows."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_question_is_found_in_every_layout(tmp_path: Path, layout: str) -> None:
    """What the last user turn asks is the prompt, whatever its key is called and whether or not an answer follows."""
    prompts, places = read_prompts(write(tmp_path / "real.jsonl", LAYOUTS[layout]), CONFIG)
    assert prompts == [ASKED]
    assert places[0].line == 1


def test_an_instruction_comes_with_its_input(tmp_path: Path) -> None:
    """Alpaca's input belongs to the question, as in training."""
    row = {"instruction": "Name the city.", "input": "Paris is large."}
    assert read_prompts(write(tmp_path / "real.jsonl", row), CONFIG)[0] == ["Name the city.\n\nParis is large."]


def test_layouts_may_be_mixed_and_places_are_kept(tmp_path: Path) -> None:
    """Every row is read for itself; the places lead back to the lines."""
    path = write(tmp_path / "real.jsonl", *LAYOUTS.values())
    prompts, places = read_prompts(path, CONFIG)
    assert prompts == [ASKED] * len(LAYOUTS)
    assert [(place.file, place.line) for place in places] == [(path, line) for line in range(1, len(LAYOUTS) + 1)]


def test_tables_packed_files_and_folders(tmp_path: Path) -> None:
    """CSV, JSON arrays and packed files are read as training data is; a folder gives the rows of all its files."""
    folder = tmp_path / "real"
    folder.mkdir()
    with (folder / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "text"], ["1", "one"], ["2", "two"]])
    (folder / "b.json").write_text(json.dumps([{"prompt": "three"}]))
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(b'{"question": "four"}\n'))
    assert read_prompts(str(folder), CONFIG)[0] == ["one", "two", "three", "four"]


@pytest.mark.parametrize("row", [{"id": 3, "note": "x"}, {"prompt": None}, {"prompt": 5}, {"messages": []}, {}])
def test_a_row_without_a_prompt_is_named(tmp_path: Path, row: dict[str, Any]) -> None:
    """The file, the line and the keys that are there are told, and how to name another column."""
    path = write(tmp_path / "real.jsonl", {"prompt": "a"}, row)
    with pytest.raises(DataError) as caught:
        read_prompts(path, CONFIG)
    assert str(caught.value).startswith(f"{path}:2 holds no prompt; its keys are: {', '.join(row) or 'none'}.")
    assert "data.columns.prompt" in str(caught.value)


def test_a_conversation_in_which_nobody_asks_is_named(tmp_path: Path) -> None:
    """A list of turns without a user's has no prompt, even where another key holds text."""
    row = {"messages": [{"role": "assistant", "content": "Hi"}], "text": "x"}
    with pytest.raises(DataError, match=r"real\.jsonl:1 holds no prompt"):
        read_prompts(write(tmp_path / "real.jsonl", row), CONFIG)


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    """A line that is no JSON is an error with its place."""
    path = tmp_path / "real.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": \n')
    with pytest.raises(DataError, match=r"real\.jsonl:2:1 the line ends"):
        read_prompts(str(path), CONFIG)


def test_columns_are_mapped_where_they_are_there(tmp_path: Path) -> None:
    """A mapping serves real prompts from the same table, and does not hide the usual names of those from elsewhere."""
    config = DataConfig(columns={"prompt": "ticket", "completion": "label"})
    path = write(tmp_path / "real.jsonl", {"ticket": "one", "label": "x", "text": "no"}, {"prompt": "two"})
    assert read_prompts(path, config)[0] == ["one", "two"]


def test_tickets_beside_real_prompts(tmp_path: Path) -> None:
    """The bundled real prompts are worded otherwise than the training prompts, which the comparison says."""
    folder = tickets_folder()
    some = tmp_path / "some.jsonl"
    some.write_bytes(b"".join((folder / "train.jsonl").read_bytes().splitlines(keepends=True)[:400]))
    config = Config().with_values({"data.train": str(some)})
    surveyed = audit(config, Waivers()).surveyed
    document, finding = compare_with_file(surveyed, str(folder / "real_prompts.jsonl"), config)
    assert (finding.id, finding.severity, document["verdict"]) == ("D11", "warning", "strong mismatch")
    assert document["auc"] > 0.95
    assert document["rows_real"] == 150
    assert Path(finding.examples[0]["file"]).name == "real_prompts.jsonl"
    lines = (folder / "real_prompts.jsonl").read_text("utf-8").split("\n")
    for example in finding.examples:
        assert json.loads(lines[example["line"] - 1])["prompt"].startswith(example["text"].removesuffix("...")[:40])
