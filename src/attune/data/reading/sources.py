"""Which files the rows come from: a file, a folder, a glob, a set on the Hub, or a list of these with weights."""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from attune.data.reading.hub import hub_name, is_hub
from attune.data.reading.read import is_data_file, missing_text
from attune.errors import ConfigError, DataError

NAMED_FILES = 5  # how many files a message names


class Weighted(Protocol):
    """A source with settings of its own, such as an entry of `data.train`."""

    @property
    def path(self) -> str:
        """A file, folder, glob or Hub set."""

    @property
    def weight(self) -> float:
        """How often each of its rows comes in an epoch."""

    @property
    def name(self) -> str:
        """What its rows are called in breakdowns; empty: the file's name."""


Spec: TypeAlias = "str | Sequence[str | Weighted]"


@dataclass(frozen=True, slots=True)
class Source:
    """One file or Hub set to read. `weight`: how often each of its rows comes in an epoch, 1.0 = once."""

    file: str
    name: str
    weight: float = 1.0


def open_sources(spec: Spec, *, without: Collection[str] = ()) -> tuple[Source, ...]:
    """Return the files that a setting names, in the order of the setting, those of a folder or glob sorted by name.

    A folder gives all data files in it and below it, hidden ones aside. Files of `without` (the validation file, say)
    are not taken through a folder or glob. A source without a name is called as its file.

    Raises: DataError when nothing is there; ConfigError when a file is named twice or a setting is empty.
    """
    left_out = {_identity(file) for file in without}
    sources: list[Source] = []
    for item in [spec] if isinstance(spec, str) else spec:
        path, name, weight = (item, "", 1.0) if isinstance(item, str) else (item.path, item.name, item.weight)
        files = [file for file in _files_of(path) if file == path or _identity(file) not in left_out]
        if not files:
            raise DataError(f"{path}: all of its data files are named as other data: nothing is left to read.")
        sources += [Source(file, name or file, weight) for file in files]
    if not sources:
        raise ConfigError("no data file is named: give a file, a folder, a glob or a list of them.")
    _refuse_twice(sources)
    return tuple(sources)


def find_ignored(spec: Spec) -> tuple[str, ...]:
    """Return the files in the folders and globs of a setting that are not read: their names are not those of data."""
    ignored: list[str] = []
    for item in [spec] if isinstance(spec, str) else spec:
        path = item if isinstance(item, str) else item.path
        if not is_hub(path) and Path(path).is_dir():
            ignored += [str(file) for file in _walk(Path(path)) if not is_data_file(file.name)]
        elif not is_hub(path) and not Path(path).exists() and glob.has_magic(path):
            ignored += _matches(path)[1]
    return tuple(ignored)


def _files_of(path: str) -> list[str]:
    """Return the files that one entry stands for. Raises: DataError, ConfigError."""
    if not path:
        raise ConfigError("an empty path among the data files: give a file, a folder, a glob or hub:owner/name.")
    if is_hub(path):
        hub_name(path)
        return [path]
    if Path(path).is_dir():
        return _in_folder(Path(path))
    if Path(path).exists() or not glob.has_magic(path):
        if not Path(path).exists():
            raise DataError(missing_text(Path(path)))
        return [path]
    files, _ = _matches(path)
    return files


def _matches(pattern: str) -> tuple[list[str], list[str]]:
    """Return the data files that a glob matches, or those of matched folders, and the other files it matches.

    Where no match is named as data files are, all are taken: the pattern says so. Raises: DataError for no match.
    """
    hits = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute patterns
    files = [hit for hit in hits if not Path(hit).is_dir()]
    data = [file for file in files if is_data_file(file)]
    if data:
        return data, [file for file in files if not is_data_file(file)]
    if files:
        return files, []
    if not hits:
        raise DataError(f"{pattern} matches no file.")
    return [file for folder in hits for file in _in_folder(Path(folder))], []


def _in_folder(folder: Path) -> list[str]:
    """Return the data files of a folder. Raises: DataError when it has none."""
    files = list(_walk(folder))
    found = [str(file) for file in files if is_data_file(file.name)]
    if found:
        return found
    names = ", ".join(str(file.relative_to(folder)) for file in files[:NAMED_FILES])
    there = f"it holds {len(files)} other files: {names}" if files else "it is empty"
    raise DataError(f"{folder} is a folder without data files (JSONL, JSON, CSV, TSV, Parquet); {there}.")


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all files of a folder and of those below it, sorted, without hidden ones."""
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        is_loop = entry.is_symlink() and folder.resolve().is_relative_to(entry.resolve())
        if entry.is_dir() and not is_loop:
            yield from _walk(entry)
        elif entry.is_file():
            yield entry


def _identity(file: str) -> str:
    return file if is_hub(file) else os.path.realpath(file)


def _refuse_twice(sources: Sequence[Source]) -> None:
    """Raise ConfigError for a file that is reached twice: its rows would silently count double."""
    seen: dict[str, Source] = {}
    for source in sources:
        first = seen.setdefault(_identity(source.file), source)
        if first is not source:
            also = "" if first.file == source.file else f" (also as {first.file})"
            raise ConfigError(
                f"{source.file} is named twice{also}: its rows would come twice as often.\n"
                "Name it once; a weight says how often its rows come."
            )
