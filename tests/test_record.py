"""The run folder: files are whole or absent, what a crash left is understood, and no run overwrites another."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attune.errors import CheckpointError, ConfigError, RefusedError, ResourceError
from attune.record import RunFolder, check_run_name, json_text, plain, write_atomic
from attune.types import Place


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A new run folder."""
    return RunFolder.create(tmp_path / "run")


@dataclass(frozen=True)
class Outer:
    """A dataclass that holds another one."""

    place: Place
    values: tuple[float, ...]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (np.float32("inf"), "inf"),
        (np.float32(0.5), 0.5),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (torch.tensor(3), 3),
        (torch.tensor(float("nan"), dtype=torch.bfloat16), "nan"),
        (Path("a/b"), "a/b"),
        ({1: (1, [2.0])}, {"1": [1, [2.0]]}),
        (
            Outer(Place("f", 2, 9), (1.0, float("inf"))),
            {"place": {"file": "f", "line": 2, "offset": 9}, "values": [1.0, "inf"]},
        ),
        (None, None),
        ("text", "text"),
    ],
    ids=repr,
)
def test_plain_values_are_json(value: Any, expected: Any) -> None:
    """Dataclasses, paths, scalars of numpy and torch, NaN and infinity become what every JSON reader understands."""
    made = plain(value)
    assert made == expected
    assert type(made) is type(expected)
    assert json.loads(json_text(value), parse_constant=pytest.fail) == expected


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    """The new content stands under the name, readable by everybody, and nothing is left beside it."""
    file = tmp_path / "a.json"
    write_atomic(file, b"old")
    write_atomic(file, b"new" * 100_000)
    assert file.read_bytes() == b"new" * 100_000
    assert file.stat().st_mode & 0o444 == 0o444
    assert [item.name for item in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("owner", "call"), [(os, "write"), (os, "fsync"), (Path, "replace")], ids=["write", "fsync", "rename"]
)
def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, call: str
) -> None:
    """When the disk is full the error says which file and how many bytes; the old content stays, without a rest."""
    file = tmp_path / "a.json"
    write_atomic(file, b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(owner, call, full)
        with pytest.raises(ResourceError) as caught:
            write_atomic(file, b"new" * 1000)
    assert str(caught.value).startswith(f"{file}: cannot write 3,000 bytes: No space left on device. Free space")
    assert file.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.json"]


def test_writes_that_the_system_takes_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write call may take fewer bytes than it was given; the rest follows."""
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:7]))
        write_atomic(tmp_path / "a", bytes(range(100)))
    assert (tmp_path / "a").read_bytes() == bytes(range(100))


@pytest.mark.parametrize(
    "name",
    [
        "CON",
        "con.txt",
        "nul",
        "COM1",
        "lpt9.x",
        "a b",
        "-x",
        ".x",
        "x" * 300,
        "x" * 81,
        "\x1b[31mred",
        "x\0y",
        "a\nb",
        "ü",
    ],
)
def test_bad_names_are_refused(tmp_path: Path, name: str) -> None:
    """Names that some system reserves, hides or shows in colour are refused before anything is made, in plain ASCII."""
    with pytest.raises(ConfigError, match=r"use letters, digits, \. _ -") as caught:
        RunFolder.create(tmp_path / name)
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a", "x" * 80, "tickets-1", "con1", "Console", "1.2_3-x"])
def test_good_names_are_taken(name: str) -> None:
    """Names that only look like bad ones are fine."""
    check_run_name(name)


def test_a_used_place_is_refused_and_left_alone(tmp_path: Path) -> None:
    """A folder with a run, one with anything else and a file are refused, each with what stands there."""
    used = RunFolder.create(tmp_path / "used")
    used.write_json("result.json", {"steps": 3, "total_steps": 9, "status": "stopped"})
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("x")
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(RefusedError, match=r"holds a run \(step 3 of 9, stopped\).*attune resume"):
        RunFolder.create(used.path)
    used.write_json("result.json", {"steps": 9, "total_steps": 9, "status": "done"})
    with pytest.raises(RefusedError, match=r"\(step 9 of 9, done\).*attune eval \S+used\. Or choose another --out"):
        RunFolder.create(used.path)
    with pytest.raises(RefusedError, match=r"not empty \(it holds notes\.txt\)"):
        RunFolder.create(other)
    with pytest.raises(RefusedError, match="is a file"):
        RunFolder.create(file)
    assert [item.name for item in used.path.iterdir()] == ["result.json"]
    assert (other / "notes.txt").read_text() == file.read_text() == "x"


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    """A folder that was made beforehand and holds nothing is a new run's."""
    (tmp_path / "empty").mkdir()
    assert RunFolder.create(tmp_path / "empty").path.is_dir()
    assert not list((tmp_path / "empty").iterdir())


@pytest.mark.parametrize("stood", [True, False])
def test_a_run_that_never_started_leaves_nothing(tmp_path: Path, stood: bool) -> None:
    """What it wrote is gone, and the folders that it made; one that stood there before stays, empty."""
    folder = tmp_path / "runs" / "a"
    if stood:
        folder.mkdir(parents=True)
    run = RunFolder.create(folder)
    run.event("note", "x")
    (folder / "replay").mkdir()
    (folder / "replay" / "texts.jsonl").write_text("x")
    (folder / ".lock").touch()
    run.discard()
    assert [place.relative_to(tmp_path).as_posix() for place in tmp_path.rglob("*")] == (
        ["runs", "runs/a"] if stood else []
    )


def test_a_read_only_place_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is tried before anything is loaded."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(RefusedError, match="cannot be written to: Read-only file"):
        RunFolder.create(tmp_path / "a")


def test_what_is_not_a_run_is_refused_with_those_nearby(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a folder that is no run names the runs beside it."""
    monkeypatch.chdir(tmp_path)  # the runs of the folder one works in are named too
    RunFolder.create(tmp_path / "a").write_json("manifest.json", {})
    (tmp_path / "b").mkdir()
    with pytest.raises(ConfigError, match=r"b: holds no run \(no manifest\.json\)\. Runs here: .*/a\."):
        RunFolder.open(tmp_path / "b")
    with pytest.raises(ConfigError, match="nowhere: not found"):
        RunFolder.open(tmp_path / "nowhere")
    assert RunFolder.open(tmp_path / "a").read_json("manifest.json") == {}


def test_lines_come_back(run: RunFolder) -> None:
    """What was appended is read back in order; a file that was never written has no lines."""
    assert run.read_lines("metrics.jsonl") == []
    run.append("metrics.jsonl", {"step": 1, "loss": float("nan")})
    run.append("metrics.jsonl", {"step": np.int64(2)}, {"step": 3})
    assert run.read_lines("metrics.jsonl") == [{"step": 1, "loss": "nan"}, {"step": 2}, {"step": 3}]


@pytest.mark.parametrize("rest", [b'{"step": 2, "lo', b"{", b'{"text": "\xc3'])
def test_a_torn_last_line_was_never_a_record(run: RunFolder, rest: bytes) -> None:
    """A line cut off by a crash is not read, and the next one does not grow onto it."""
    file = run.path / "metrics.jsonl"
    file.write_bytes(b'{"step":1}\n' + rest)
    assert run.read_lines("metrics.jsonl") == [{"step": 1}]
    run.append("metrics.jsonl", {"step": 2})
    assert file.read_bytes() == b'{"step":1}\n{"step":2}\n'


def test_a_file_that_is_only_a_torn_line(run: RunFolder) -> None:
    """The crash may come in the very first line."""
    (run.path / "events.jsonl").write_bytes(b'{"ti')
    assert run.read_lines("events.jsonl") == []
    run.append("events.jsonl", {"time": 1})
    assert run.read_lines("events.jsonl") == [{"time": 1}]


def test_a_whole_last_line_without_newline_stays(run: RunFolder) -> None:
    """Where only the newline is missing, the record is read and kept."""
    file = run.path / "metrics.jsonl"
    file.write_bytes(b'{"step":1}\n{"step":2}')
    assert run.read_lines("metrics.jsonl") == [{"step": 1}, {"step": 2}]
    run.append("metrics.jsonl", {"step": 3})
    assert file.read_bytes() == b'{"step":1}\n{"step":2}\n{"step":3}\n'


@pytest.mark.parametrize("damage", [b'{"step":', b"", b"\0\0\0\0"])
def test_a_damaged_inner_line_is_named(run: RunFolder, damage: bytes) -> None:
    """A line that no crash explains is an error with its place, not a record that is silently lost."""
    (run.path / "metrics.jsonl").write_bytes(b'{"step":1}\n' + damage + b'\n{"step":3}\n')
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl:2 is damaged"):
        run.read_lines("metrics.jsonl")


def test_damaged_and_missing_json_is_named(run: RunFolder) -> None:
    """The file and what to do are said."""
    with pytest.raises(CheckpointError, match=r"result\.json is missing"):
        run.read_json("result.json")
    (run.path / "result.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"result\.json is damaged"):
        run.read_json("result.json")


def test_a_full_disk_while_appending_is_told(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the file and the command to go on with."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(ResourceError, match=r"cannot append: No space.*attune resume"):
        run.append("metrics.jsonl", {"step": 1})


def test_the_clock_goes_on(run: RunFolder) -> None:
    """A resumed run's times follow those of its first part."""
    assert run.seconds() < 60
    run.continue_clock(1000.0)
    run.event("note", "resumed", step=4)
    (event,) = run.read_lines("events.jsonl")
    assert 1000 <= event.pop("time") < 1060
    assert event == {"kind": "note", "message": "resumed", "step": 4}


def test_half_characters_do_not_stop_a_file(run: RunFolder) -> None:
    """Text that UTF-8 cannot hold is written out instead of ending the run."""
    run.write_text("config.yaml", "a \ud800 b")
    assert (run.path / "config.yaml").read_text() == "a \\ud800 b"
