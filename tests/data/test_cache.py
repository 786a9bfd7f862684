"""Prepared rows in the cache: the same to the bit, found by content, rebuilt when damaged, never too many."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attune.config import Config
from attune.data import cache
from attune.data.prepared import Prepared
from attune.errors import ConfigError
from tests.data.sameness import kept_of, looked_at
from tests.data.sets import alike, chat, pairs, prepare_config, settings_of, write_set

HIT, MISS = "found in the cache", "not in the cache"


@pytest.fixture
def rows(tmp_path: Path) -> str:
    """A file of rows with what a preparation can note: weights, sources, copies, a long row."""
    lines = [*pairs(30), *alike(3), *pairs(2, seed=9) * 2, {"prompt": "long " * 60, "completion": "short"}]
    lines[3] |= {"weight": 0.5, "source": "forum"}
    return write_set(tmp_path / "rows.jsonl", lines)


def prepared_in(folder: Path, train: Any, **values: Any) -> Prepared:
    """Return rows prepared with a cache in a folder, and a share of them held out."""
    settings = {"data.cache": str(folder / "cache"), "data.valid_share": 0.2, "data.max_length": 120, **values}
    return prepare_config(settings_of(train, **settings), folder)


def entries_in(folder: Path) -> list[Path]:
    """Return the entries of a folder's cache."""
    return [path.parent for path in (folder / "cache").glob("*/document.json")]


def test_second_time_is_the_same(tmp_path: Path, rows: str) -> None:
    """A hit gives what a miss gave, to the bit, from mapped files, and what is read again on demand is the same."""
    first, second = prepared_in(tmp_path, rows), prepared_in(tmp_path, rows)
    assert MISS in first.notes[0]
    assert HIT in second.notes[0]
    assert kept_of(first) == kept_of(second) == kept_of(prepared_in(tmp_path, rows, **{"data.cache": "off"}))
    base: Any = second.train.tokens
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    assert looked_at(first) == looked_at(second)


def test_files_of_every_part(tmp_path: Path, rows: str) -> None:
    """Several sources with weights, a validation file and a test set come back from the cache."""
    more = write_set(tmp_path / "more.jsonl", pairs(20, seed=3))
    held, test = (write_set(tmp_path / f"{name}.jsonl", pairs(9, seed=at)) for at, name in enumerate("vt", start=5))
    values = {"data.valid": held, "data.test": [test], "data.duplicates": "drop", "data.overlong": "cut"}
    train = [{"path": rows, "weight": 2.0, "name": "mine"}, more]
    first, second = (prepared_in(tmp_path, train, **values) for _ in range(2))
    assert HIT in second.notes[0]
    assert kept_of(first) == kept_of(second)


@pytest.mark.parametrize(
    "values",
    [
        {"seed": 1},
        {"data.mask": "all"},
        {"data.max_length": 90},
        {"data.template": "none"},
        {"data.duplicates": "drop"},
        {"data.augment": 1},
    ],
    ids=str,
)
def test_other_settings_are_another_entry(tmp_path: Path, rows: str, values: dict[str, Any]) -> None:
    """What changes the rows changes the key; what does not, such as workers, finds them."""
    prepared_in(tmp_path, rows)
    other = prepared_in(tmp_path, rows, **values)
    assert MISS in other.notes[0]
    assert kept_of(other) == kept_of(prepared_in(tmp_path, rows, **{"data.cache": "off", **values}))
    assert HIT in prepared_in(tmp_path, rows, **{"data.workers": 3, "data.share_prefixes": False}).notes[0]


def test_other_bytes_are_another_entry(tmp_path: Path, rows: str) -> None:
    """A changed row, with the file's size and time as before, is not taken for the old one; an undone change is."""
    path = Path(rows)
    before, times = path.read_bytes(), path.stat()
    prepared_in(tmp_path, rows)
    path.write_bytes(before.replace(b"short", b"brief"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert MISS in prepared_in(tmp_path, rows).notes[0]
    path.write_bytes(before)
    assert HIT in prepared_in(tmp_path, rows).notes[0]


def test_other_code_is_another_entry(tmp_path: Path, rows: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that another version prepared are prepared anew."""
    prepared_in(tmp_path, rows)
    monkeypatch.setattr(cache, "_code", lambda: "another version")
    assert MISS in prepared_in(tmp_path, rows).notes[0]


@pytest.mark.parametrize("name", ["document.json", "arrays.bin"])
@pytest.mark.parametrize("how", ["a bit", "the end", "all"])
def test_damage_is_noticed(tmp_path: Path, rows: str, name: str, how: str) -> None:
    """An entry with a wrong bit, without its end or without a file is told, rebuilt and used again."""
    first = prepared_in(tmp_path, rows)
    path = entries_in(tmp_path)[0] / name
    raw = bytearray(path.read_bytes())
    if how == "all":
        path.unlink()
    else:
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw if how == "a bit" else raw[:-1])
    again = prepared_in(tmp_path, rows)
    assert "damaged in the cache" in again.notes[0]
    assert name in again.notes[0]
    assert "Error" not in again.notes[0]  # said in words, not by the name of a class
    assert HIT in prepared_in(tmp_path, rows).notes[0]
    assert kept_of(first) == kept_of(again)


def test_off_writes_nothing(tmp_path: Path, rows: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With data.cache = off, and for small data by itself, no folder is made and nothing is said."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    for choice in ("off", "auto"):
        assert prepared_in(tmp_path, rows, **{"data.cache": choice}).notes == ()
    assert not (tmp_path / "home").exists()
    monkeypatch.setattr(cache, "SMALL_BYTES", 0)
    assert MISS in prepared_in(tmp_path, rows, **{"data.cache": "auto"}).notes[0]
    assert len(list((tmp_path / "home" / "attune").iterdir())) == 1


def test_oldest_entries_go(tmp_path: Path, rows: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the limit the entry used longest ago goes, one that was found lately stays; other folders are let be."""
    other = tmp_path / "cache" / "mine"
    other.mkdir(parents=True)
    (other / "notes.txt").write_text("keep me")
    for seed in range(3):
        prepared_in(tmp_path, rows, seed=seed)
    for age, entry in enumerate(sorted(entries_in(tmp_path), key=lambda path: path.stat().st_mtime_ns)):
        os.utime(entry, (1000 + age, 1000 + age))
    assert HIT in prepared_in(tmp_path, rows, seed=0).notes[0]
    size = max(sum(path.stat().st_size for path in entry.iterdir()) for entry in entries_in(tmp_path))
    monkeypatch.setattr(cache, "MOST_BYTES", int(2.5 * size))
    prepared_in(tmp_path, rows, seed=3)
    assert len(entries_in(tmp_path)) == 2
    assert HIT in prepared_in(tmp_path, rows, seed=0).notes[0]
    assert HIT in prepared_in(tmp_path, rows, seed=3).notes[0]
    assert (other / "notes.txt").read_text() == "keep me"


def test_a_failed_write_leaves_nothing(tmp_path: Path, rows: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk is full the rows are there all the same, the note says why they are not kept, and no part stays."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    prepared = prepared_in(tmp_path, rows)
    assert "No space left on device" in prepared.notes[0]
    assert prepared.train.num_rows > 20
    assert not list((tmp_path / "cache").iterdir())


def test_another_writer_was_faster(tmp_path: Path, rows: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that prepare the same rows do not disturb each other."""
    prepared_in(tmp_path, rows)
    monkeypatch.setattr(cache.Cache, "read", lambda *_, **__: None)
    assert "kept in" in prepared_in(tmp_path, rows).notes[0]
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_folder_that_cannot_be_one(tmp_path: Path, rows: str) -> None:
    """A named folder that cannot be made is an error before any row is read."""
    with pytest.raises(ConfigError, match=r"data\.cache: .*cannot be made a folder"):
        prepared_in(tmp_path, rows, **{"data.cache": str(Path(rows) / "cache")})


def test_values_that_json_cannot_hold(tmp_path: Path) -> None:
    """A held-out row with a value that JSON would change is not kept, and the note says so."""
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    talk = [
        chat(("user", f"question {at}", {}), ("assistant", f"word {at}", {"tool_calls": [call]})) for at in range(24)
    ]
    values = {"data.template": str(write_template(tmp_path))}
    first, second = (prepared_in(tmp_path, write_set(tmp_path / "t.jsonl", talk), **values) for _ in range(2))
    assert HIT in second.notes[0]
    assert first.valid_examples
    assert kept_of(first) == kept_of(second)
    object.__setattr__(first.valid_examples[0].messages[1], "tool_calls", ({"at": {1: 2}},))
    said = cache.Cache(tmp_path / "cache", "other").write(first).notes[0]
    assert "not kept: a row holds a value that JSON cannot give back" in said


def write_template(folder: Path) -> Path:
    """Write a chat template that shows tool calls."""
    path = folder / "calls.jinja"
    path.write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ m.tool_calls }}"
        "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    return path


def test_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The default is attune in the user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.default_folder() == tmp_path / "attune"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.default_folder() == Path.home() / ".cache" / "attune"
    assert Config().data.cache == "auto"
