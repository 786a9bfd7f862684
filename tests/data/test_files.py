"""Which files a run reads, the part each plays, and that no file plays two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from attune.config import Config
from attune.data.files import DataFile, list_files
from attune.errors import ConfigError, DataError
from tests.data.sets import pair, write_set


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of three training files, one of them below it, with its validation and test files among them."""
    for name in ("a", "b", "below/c", "valid", "test"):
        write_set(tmp_path / "rows" / f"{name}.jsonl", [pair(name, "x")])
    return tmp_path / "rows"


def files_of(**settings: Any) -> list[DataFile]:
    """Return the files of some data settings."""
    return list_files(Config().with_values({f"data.{name}": value for name, value in settings.items()}))


def test_parts_come_in_order_with_weights_and_names(folder: Path) -> None:
    """Training files first with what their source says, then validation, then test sets."""
    a, below = str(folder / "a.jsonl"), str(folder / "below")
    train = [a, {"path": below, "weight": 0.5, "name": "deep"}]
    valid, test = str(folder / "valid.jsonl"), str(folder / "test.jsonl")
    assert files_of(train=train, valid=valid, test=[test]) == [
        DataFile(a, "train"),
        DataFile(f"{below}/c.jsonl", "train", "deep", 0.5),
        DataFile(valid, "valid"),
        DataFile(test, "test"),
    ]


@pytest.mark.parametrize("train", ["", "/**/*.jsonl"])
def test_held_out_files_of_a_folder_are_not_trained(
    folder: Path, train: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder or glob gives no file that is named as validation or test set, however that is spelt."""
    monkeypatch.chdir(tmp_path)
    files = files_of(train=f"{folder}{train}", valid="rows/valid.jsonl", test=["./rows/../rows/test.jsonl"])
    assert [Path(file.path).name for file in files if file.part == "train"] == ["a.jsonl", "b.jsonl", "c.jsonl"]
    assert [(file.path, file.part) for file in files[3:]] == [
        ("rows/valid.jsonl", "valid"),
        ("./rows/../rows/test.jsonl", "test"),
    ]


def test_a_name_weighs_every_file_of_its_folder(folder: Path) -> None:
    """All files of a named folder are called by the name and come equally often."""
    files = files_of(train=[{"path": str(folder), "weight": 2.0, "name": "mine"}])
    assert len(files) == 5
    assert {(file.source, file.weight) for file in files} == {("mine", 2.0)}


def test_faults_of_file_settings(folder: Path) -> None:
    """A file named twice, one that is missing, and a folder whose files are all held out are refused."""
    a, valid = str(folder / "a.jsonl"), str(folder / "valid.jsonl")
    with pytest.raises(ConfigError, match="is named twice"):
        files_of(train=[str(folder), a])
    for settings in ({"train": a, "valid": f"{folder}/gone.jsonl"}, {"train": a, "test": [f"{folder}/gone.jsonl"]}):
        with pytest.raises(DataError, match=r"gone\.jsonl"):
            files_of(**settings)
    alone = folder / "alone"
    write_set(alone / "v.jsonl", [pair("q", "a")])
    with pytest.raises(DataError, match="nothing is left to read"):
        files_of(train=str(alone), valid=f"{alone}/v.jsonl")
    assert [file.part for file in files_of(train=a, valid=valid)] == ["train", "valid"]
