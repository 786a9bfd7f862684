"""Every file that a run or a check reads, with the part that its rows play."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from attune.config import Config
from attune.data.reading.sources import open_sources

Part = Literal["train", "valid", "test"]
PARTS: tuple[Part, ...] = ("train", "valid", "test")


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file of a run. `source`: what its rows are called; empty: as the file. `weight`: copies in an epoch."""

    path: str
    part: Part
    source: str = ""
    weight: float = 1.0


def list_files(config: Config) -> list[DataFile]:
    """Return the files of data.train, data.valid and data.test; a held-out file is never taken for a training file.

    Raises: DataError when one is missing; ConfigError when one is named twice.
    """
    data = config.data
    valid = [source.file for source in open_sources(data.valid)] if data.valid else []
    tests = [source.file for path in data.test for source in open_sources(path)]
    train = open_sources(data.train, without=[*valid, *tests])
    files = [
        DataFile(source.file, "train", "" if source.name == source.file else source.name, source.weight)
        for source in train
    ]
    files += [DataFile(path, "valid") for path in valid]
    return files + [DataFile(path, "test") for path in tests]
