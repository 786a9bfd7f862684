"""The files of a run by their fingerprints: what changed since it started, and what it is called after."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from attune.config import Config
from attune.config_file import dump_yaml, load_run_config
from attune.errors import DataError, RefusedError
from attune.record import RunFolder
from attune.train.data_files import data_files, data_name, fingerprints, free_folder, refuse_changes
from attune.train.run import resume
from tests.data.sets import pairs, settings_of, write_set


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Two sources, one of them a folder, with validation and test rows."""
    for at, name in enumerate(("a", "more/b", "more/c", "valid", "test")):
        write_set(tmp_path / f"{name}.jsonl", pairs(3, seed=at))
    train = [str(tmp_path / "a.jsonl"), {"path": str(tmp_path / "more"), "weight": 2.0, "name": "more"}]
    settings = {"data.valid": str(tmp_path / "valid.jsonl"), "data.test": [str(tmp_path / "test.jsonl")]}
    return settings_of(train, **settings)


def started(config: Config, folder: Path) -> tuple[RunFolder, dict[str, Any]]:
    """Return a run folder and the part of its manifest that knows the data."""
    return RunFolder.create(folder / "run"), {"data": {"files": fingerprints(config)}}


def test_fingerprints_are_those_of_every_file(config: Config, tmp_path: Path) -> None:
    """Name, size and SHA-256 of training, validation and test files, those of folders one by one."""
    found = fingerprints(config)
    assert [entry["file"] for entry in found] == data_files(config)
    names = ["a.jsonl", "more/b.jsonl", "more/c.jsonl", "valid.jsonl", "test.jsonl"]
    assert data_files(config) == [str(tmp_path / name) for name in names]
    for entry in found:
        content = Path(entry["file"]).read_bytes()
        assert (entry["bytes"], entry["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())


def test_a_hub_set_is_named_by_its_id(config: Config) -> None:
    """Nothing is fetched to take its fingerprint, and it is never missing."""
    hub = config.with_values({"data.train": ["hub:owner/name:train", config.data.valid], "data.valid": ""})
    assert fingerprints(hub)[0] == {"file": "hub:owner/name:train", "bytes": 0, "sha256": ""}


def test_unchanged_files_go_on(config: Config, tmp_path: Path) -> None:
    """The same bytes are the same data, also under a new time stamp."""
    run, manifest = started(config, tmp_path)
    for file in data_files(config):
        Path(file).write_bytes(Path(file).read_bytes())
    refuse_changes(run, manifest, config)


@pytest.mark.parametrize("name", ["a", "more/b", "more/c", "valid", "test"])
@pytest.mark.parametrize("how", ["other letter", "longer"])
def test_a_changed_file_is_refused(config: Config, tmp_path: Path, name: str, how: str) -> None:
    """One letter in any file of the list is told by the file's name; restored, the run may go on."""
    run, manifest = started(config, tmp_path)
    path = tmp_path / f"{name}.jsonl"
    before = path.read_bytes()
    path.write_bytes(before.replace(b"a", b"b", 1) if how == "other letter" else before + b"\n")
    with pytest.raises(RefusedError) as caught:
        refuse_changes(run, manifest, config)
    assert str(caught.value).startswith(f"{path} changed since the run started ({len(before)} bytes then, ")
    assert "start a new run with another --out" in str(caught.value)
    path.write_bytes(before)
    refuse_changes(run, manifest, config)


@pytest.mark.parametrize("name", ["a.jsonl", "more", "valid.jsonl", "test.jsonl"])
def test_a_file_that_is_gone_is_refused(config: Config, tmp_path: Path, name: str) -> None:
    """Each source is named as the config names it."""
    run, manifest = started(config, tmp_path)
    (tmp_path / name).rename(tmp_path / "elsewhere")
    with pytest.raises(RefusedError) as caught:
        refuse_changes(run, manifest, config)
    assert str(caught.value).startswith(f"{tmp_path / name} is gone, and the run needs it")


def test_a_folder_with_other_files_is_refused(config: Config, tmp_path: Path) -> None:
    """A file that came or went is told by the number of files; one for another by what changed."""
    run, manifest = started(config, tmp_path)
    new = tmp_path / "more" / "d.jsonl"
    write_set(new, pairs(1))
    with pytest.raises(RefusedError, match="started from 5 data files, and there are 6 now"):
        refuse_changes(run, manifest, config)
    (tmp_path / "more" / "b.jsonl").unlink()
    with pytest.raises(RefusedError, match=r"b\.jsonl changed since the run started"):
        refuse_changes(run, manifest, config)
    new.unlink()
    with pytest.raises(RefusedError, match="started from 5 data files, and there are 4 now"):
        refuse_changes(run, manifest, config)


def test_a_glob_that_matches_nothing_any_more(config: Config, tmp_path: Path) -> None:
    """A pattern is no missing file; that its files are gone is told all the same."""
    globbed = config.with_values({"data.train": str(tmp_path / "more" / "*.jsonl")})
    run, manifest = started(globbed, tmp_path)
    refuse_changes(run, manifest, globbed)
    (tmp_path / "more").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"\*\.jsonl matches no file"):
        refuse_changes(run, manifest, globbed)


def test_a_run_knows_its_list_again(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources with weights and names read back from the run folder, and are found from another folder."""
    monkeypatch.chdir(tmp_path)
    train = ["a.jsonl", {"path": "more", "weight": 2.0, "name": "more"}, "hub:owner/name"]
    settings = {"data.train": train, "data.valid": "valid.jsonl", "data.test": ["test.jsonl"]}
    relative = config.with_values(settings)
    run = RunFolder.create("run")
    run.write_text("config.yaml", dump_yaml(relative))
    run.write_json("manifest.json", {"cwd": str(tmp_path)})
    assert load_run_config(run.path, run.find) == relative
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    again = load_run_config(tmp_path / "run", RunFolder.open(tmp_path / "run").find).data
    assert again.valid == str(tmp_path / "valid.jsonl")
    assert again.test == [str(tmp_path / "test.jsonl")]
    found = [item if isinstance(item, str) else item.model_dump() for item in again.train]
    more = {"path": str(tmp_path / "more"), "weight": 2.0, "name": "more"}
    assert found == [str(tmp_path / "a.jsonl"), more, "hub:owner/name"]


def test_resume_refuses_a_changed_list(config: Config, tmp_path: Path) -> None:
    """A run that was stopped is not resumed with other rows in any file of its list, and stays as it was."""
    run, manifest = started(config, tmp_path)
    run.write_text("config.yaml", dump_yaml(config.with_values({"out": str(run.path)})))
    run.write_json("manifest.json", {**manifest, "cwd": str(tmp_path)})
    run.write_json("result.json", {"status": "stopped", "steps": 1})
    with (tmp_path / "more" / "c.jsonl").open("a") as file:
        file.write("\n")
    before = {path.name: path.read_bytes() for path in run.path.iterdir() if path.suffix}
    with pytest.raises(RefusedError, match=r"more/c\.jsonl changed since the run started") as caught:
        resume(run.path)
    assert caught.value.exit_code == 7
    assert {path.name: path.read_bytes() for path in run.path.iterdir() if path.suffix} == before


@pytest.mark.parametrize(
    ("train", "name"),
    [
        ("data/a.jsonl", "a.jsonl"),
        (["data/a.jsonl", "b.jsonl"], "a.jsonl"),
        ([{"path": "data/more", "weight": 2.0}, "b.jsonl"], "more"),
        ("hub:owner/name", "name"),
        ("", "rows"),
        ([], "rows"),
    ],
)
def test_a_run_is_called_after_its_first_source(train: Any, name: str) -> None:
    """The file's, folder's or set's own name, without the way to it."""
    assert data_name(settings_of(train)) == name


def test_a_free_folder_is_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data and model name it, in letters that every system takes; the number is the first that is free."""
    monkeypatch.chdir(tmp_path)
    config = settings_of([{"path": "in/my rows.jsonl"}], model="models/Tiny 1B")
    assert str(free_folder(config)) == "runs/my-rows-Tiny-1B-1"
    free_folder(config).mkdir(parents=True)
    assert str(free_folder(config)) == "runs/my-rows-Tiny-1B-2"
