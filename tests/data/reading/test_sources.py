"""Which files are read: files, folders, globs, Hub sets and lists of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from attune.data.reading.sources import Source, find_ignored, open_sources
from attune.errors import ConfigError, DataError


@dataclass(frozen=True)
class Entry:
    """A source with settings of its own, as a config has it."""

    path: str
    weight: float = 1.0
    name: str = ""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of data files, with other files beside them and hidden ones among them."""
    for name in (
        "b.jsonl",
        "a.csv",
        "more/c.json.gz",
        "more/d.parquet",
        "more/deep/e.ndjson",
        "README.md",
        "more/notes.txt",
        ".cache/f.jsonl",
        ".g.jsonl",
    ):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}\n")
    return tmp_path / "data"


def names(sources: tuple[Source, ...], folder: Path) -> list[str]:
    """Return the files of sources as they lie in a folder."""
    return [os.path.relpath(source.file, folder) for source in sources]


def test_a_file_is_itself(folder: Path) -> None:
    """A file is one source, called as the user named it, whatever its ending."""
    file = str(folder / "README.md")
    assert open_sources(file) == (Source(file, file, 1.0),)
    assert find_ignored(file) == ()


def test_a_folder_gives_its_data_files_in_order(folder: Path) -> None:
    """All data files in a folder and below it, sorted, packed or not; hidden ones are left alone, others are named."""
    expected = ["a.csv", "b.jsonl", "more/c.json.gz", "more/d.parquet", "more/deep/e.ndjson"]
    assert names(open_sources(str(folder)), folder) == expected
    assert [os.path.relpath(file, folder) for file in find_ignored([str(folder)])] == ["README.md", "more/notes.txt"]


def test_a_link_to_the_folder_itself_ends(folder: Path) -> None:
    """A linked folder is followed, unless it leads back."""
    (folder / "more" / "up").symlink_to(folder)
    assert len(open_sources(str(folder))) == 5


def test_globs(folder: Path) -> None:
    """A glob takes what is named as data, all matches where nothing is, and the folders where there are no files."""
    assert names(open_sources(f"{folder}/*"), folder) == ["a.csv", "b.jsonl"]
    assert [Path(file).name for file in find_ignored(f"{folder}/*")] == ["README.md"]
    assert names(open_sources(f"{folder}/**/*.nd*"), folder) == ["more/deep/e.ndjson"]
    assert names(open_sources(f"{folder}/*.md"), folder) == ["README.md"]
    assert names(open_sources(f"{folder}/mor?"), folder) == ["more/c.json.gz", "more/d.parquet", "more/deep/e.ndjson"]
    odd = folder / "rows[1].jsonl"
    odd.write_bytes(b"{}\n")
    assert names(open_sources(str(odd)), folder) == ["rows[1].jsonl"]


def test_lists_keep_their_order_weights_and_names(folder: Path) -> None:
    """Texts and entries may stand side by side; an entry's weight and name go to all of its files."""
    sources = open_sources([f"{folder}/b.jsonl", Entry(f"{folder}/more", 2.5, "extra"), "hub:owner/name:test"])
    assert names(sources[:4], folder) == ["b.jsonl", "more/c.json.gz", "more/d.parquet", "more/deep/e.ndjson"]
    assert [source.weight for source in sources] == [1.0, 2.5, 2.5, 2.5, 1.0]
    assert [source.name for source in sources[1:]] == ["extra", "extra", "extra", "hub:owner/name:test"]
    assert sources[0].name == sources[0].file


def test_validation_files_in_the_folder_are_not_trained_on(folder: Path) -> None:
    """What is named as other data does not come in through a folder, but does by its own name."""
    valid = str(folder / "b.jsonl")
    assert names(open_sources(str(folder / "." / ""), without=[valid]), folder)[:2] == ["a.csv", "more/c.json.gz"]
    assert names(open_sources([valid], without=[valid]), folder) == ["b.jsonl"]
    with pytest.raises(DataError, match="nothing is left to read"):
        open_sources(f"{folder}/*.jsonl", without=[valid])


def test_a_file_named_twice_is_refused(folder: Path) -> None:
    """The same file by two ways would count double, so it is named with both."""
    with pytest.raises(ConfigError, match=r"b\.jsonl is named twice"):
        open_sources([str(folder), f"{folder}/more/../b.jsonl"])
    with pytest.raises(ConfigError, match="hub:a/b is named twice"):
        open_sources(["hub:a/b", "hub:a/b"])


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("data/c.jsonl", "Did you mean"),
        ("none/c.jsonl", "there is no folder"),
        ("data/*.xml", "matches no file"),
        ("data/bare", "without data files .* holds 1 other files: x.txt"),
        ("data/void", "it is empty"),
    ],
)
def test_what_is_not_there_is_named(path: str, words: str, folder: Path) -> None:
    """A missing file, an empty glob and a folder without data say so, with what is there instead."""
    (folder / "bare").mkdir()
    (folder / "bare" / "x.txt").write_text("x")
    (folder / "void").mkdir()
    with pytest.raises(DataError, match=words):
        open_sources(str(folder.parent / path))


@pytest.mark.parametrize("spec", ["", [], [""], "hub:", "hub:a/b:c:d:e", "hub:a/b::train"])
def test_a_setting_that_names_nothing_is_refused(spec: str | list[str]) -> None:
    """Nothing, an empty path and a malformed Hub name are faults of the setting."""
    with pytest.raises(ConfigError):
        open_sources(spec)
