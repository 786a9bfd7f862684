"""The run folder: every file a run leaves behind, written so that a killed run can always be read."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from attune.errors import CheckpointError, ConfigError, RefusedError, ResourceError

FORMAT = 1
MAX_NAME = 80
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
_BEFORE_START = {".lock", "replay"}  # what a run that was killed before it started leaves behind
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


def plain(value: Any) -> Any:
    """Return `value` as JSON can hold it: dataclasses as dicts, paths as text, NaN and infinity as text."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:  # a numpy or torch scalar
        return plain(value.item())
    return value


def json_text(value: Any) -> str:
    """Return `value` as indented JSON text with a final newline."""
    return json.dumps(plain(value), indent=2, ensure_ascii=False) + "\n"


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` beside `path`, flush it to disk and rename it there: the file is whole or absent.

    Raises ResourceError when the disk is full or refuses the write.
    """
    beside = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ResourceError(f"{path}: cannot write {len(data):,} bytes: {error.strerror}. Free space there.") from error


def check_out(path: str | Path) -> None:
    """Raise ConfigError unless `path` names a run folder that is safe on every system and stands where it says."""
    if "\0" in str(path):
        raise ConfigError("out: the path holds a NUL character; run names use letters, digits, . _ - (max 80).")
    check_run_name(Path(path).name or str(path))
    if ".." in Path(path).parts:
        full = os.path.normpath(Path.cwd() / path)
        raise ConfigError(
            f'out: "{path}" climbs out of folders with "..". Write it in full if it is meant: --out {full}'
        )


def check_run_name(name: str) -> None:
    """Raise ConfigError unless `name` is a safe folder name on every system."""
    if len(name) > MAX_NAME or not _NAME.match(name) or name.split(".", maxsplit=1)[0].lower() in _RESERVED:
        shown = name[:MAX_NAME].encode("unicode_escape").decode("ascii")
        raise ConfigError(
            f'out: "{shown}" cannot name a run: use letters, digits, . _ - '
            f"(at most {MAX_NAME}, not starting with a sign)."
        )


class RunFolder:
    """One run on disk. The metrics file is the truth that every view reads; files are appended to or replaced whole."""

    def __init__(self, path: Path, *, made: Sequence[Path] = ()) -> None:
        self.path = path
        self._made = made  # the folders that did not exist before this run, innermost first
        self._started = time.monotonic()

    def continue_clock(self, seconds: float) -> None:
        """Go on counting at `seconds`: a resumed run's times follow those of its first part."""
        self._started = time.monotonic() - seconds

    @classmethod
    def create(cls, path: str | Path) -> RunFolder:
        """Make a new run folder and prove that it can be written to.

        Raises ConfigError for a bad name, RefusedError when the path is a file, holds a run or other files, or is
        read-only.
        """
        check_out(path)
        folder = Path(path)
        if folder.is_file():
            raise RefusedError(f"{folder} is a file, and a run needs a folder. Choose another --out.")
        if folder.is_dir() and any(item.name not in _BEFORE_START for item in folder.iterdir()):
            raise RefusedError(_describe_used(folder))
        made = [place for place in (folder, *folder.parents) if not place.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / ".probe"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise RefusedError(f"{folder} cannot be written to: {error.strerror}. Choose another --out.") from error
        return cls(folder, made=made)

    def discard(self) -> None:
        """Take away a run that never started: what it wrote, and the folders that were made for it.

        The folder was empty when the run took it, so all in it is the run's own.
        """
        for written in self.path.iterdir():
            if written.is_dir() and not written.is_symlink():
                shutil.rmtree(written, ignore_errors=True)
            else:
                written.unlink(missing_ok=True)
        for place in self._made:
            try:
                place.rmdir()
            except OSError:
                return  # another run stands here too

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Return an existing run. Raises ConfigError with the runs nearby when there is none."""
        folder = Path(path)
        if not (folder / "manifest.json").is_file():
            what = "holds no run (no manifest.json)" if folder.is_dir() else "not found"
            what = "is a file, not a run folder" if folder.is_file() else what
            raise ConfigError(f"{folder}: {what}.{_nearby_runs(folder)}")
        return cls(folder)

    def find(self, path: str) -> str:
        """Return a path that the run was given, wherever one stands now: relative ones begin where it was started."""
        started = self.read_json("manifest.json").get("cwd", "") if path else ""
        there = Path(started) / path
        return str(there) if started and there.exists() and not _is_same(there, Path(path)) else path

    def seconds(self) -> float:
        """Return the seconds of work on this run so far."""
        return time.monotonic() - self._started

    def write_json(self, name: str, value: Any) -> None:
        """Replace the file `name` by `value` as JSON, whole or not at all."""
        self.write_text(name, json_text(value))

    def write_text(self, name: str, text: str) -> None:
        """Replace the file `name` by `text` (UTF-8), whole or not at all."""
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path / name, text.encode("utf-8", errors="backslashreplace"))

    def append(self, name: str, *values: Any) -> None:
        """Append one JSON line per value to the file `name`, after cutting off what a crash left of a line.

        Raises ResourceError when the disk is full or refuses the write.
        """
        lines = b"".join(orjson.dumps(plain(value), option=orjson.OPT_SERIALIZE_NUMPY) + b"\n" for value in values)
        try:
            with (self.path / name).open("a+b") as file:
                _end_line(file)
                file.write(lines)
        except OSError as error:
            raise ResourceError(
                f"{self.path / name}: cannot append: {error.strerror}. Free space, then: attune resume {self.path}"
            ) from error

    def write_lines(self, name: str, values: Iterable[Any]) -> None:
        """Replace the file `name` by one JSON line per value."""
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(
            self.path / name,
            b"".join(orjson.dumps(plain(value), option=orjson.OPT_SERIALIZE_NUMPY) + b"\n" for value in values),
        )

    def event(self, kind: str, message: str, **details: Any) -> None:
        """Append to events.jsonl: what happened and when (seconds of work)."""
        self.append("events.jsonl", {"time": round(self.seconds(), 3), "kind": kind, "message": message, **details})

    def read_json(self, name: str) -> Any:
        """Return the file `name` as JSON. Raises CheckpointError when it is missing or damaged."""
        path = self.path / name
        try:
            return orjson.loads(path.read_bytes())
        except FileNotFoundError:
            raise CheckpointError(f"{path} is missing. Restore it or start a new run.") from None
        except orjson.JSONDecodeError as error:
            raise CheckpointError(f"{path} is damaged: {error}. Restore it or start a new run.") from error

    def read_lines(self, name: str) -> list[dict[str, Any]]:
        """Return the records of a .jsonl file; none if it is absent. A last line cut off by a crash is left out.

        Raises CheckpointError with file:line when any other line is damaged.
        """
        path = self.path / name
        if not path.is_file():
            return []
        *whole, rest = path.read_bytes().split(b"\n")
        records = []
        for number, line in enumerate(whole, start=1):
            try:
                records.append(orjson.loads(line))
            except orjson.JSONDecodeError as error:
                raise CheckpointError(f"{path}:{number} is damaged: {error}. Restore it or start a new run.") from error
        if _is_record(rest):
            records.append(orjson.loads(rest))
        return records


def _is_record(line: bytes) -> bool:
    """Return whether the last line of a file is whole though its newline is missing."""
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


def _end_line(file: BinaryIO) -> None:
    """Make the next write begin a line: a torn last line is cut off, a whole one without its newline gets it."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return
    file.seek(size - 1)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    last = file.read().rpartition(b"\n")[2]
    if _is_record(last):
        file.write(b"\n")
    else:
        file.truncate(size - len(last))


def _is_same(one: Path, other: Path) -> bool:
    """Return whether two paths lead to one place."""
    return other.exists() and one.samefile(other)


def _describe_used(folder: Path) -> str:
    """Say what stands in a folder that a new run may not use."""
    try:
        result = orjson.loads((folder / "result.json").read_bytes())
        where = f"step {result.get('steps')} of {result.get('total_steps')}, {result.get('status')}"
        done = result.get("status") == "done"
        advice = f"Measure it: attune eval {folder}" if done else f"Go on with it: attune resume {folder}"
        return f"{folder} holds a run ({where}); it is never overwritten. {advice}. Or choose another --out."
    except (OSError, orjson.JSONDecodeError):
        first = sorted(item.name for item in folder.iterdir())[:3]
        return f"{folder} is not empty (it holds {', '.join(first)}); a run needs a new folder. Choose another --out."


def _nearby_runs(folder: Path) -> str:
    """Name the runs beside a folder that is not one."""
    parents = [folder, folder.parent, Path("runs")]
    found = sorted({str(m.parent) for p in parents if p.is_dir() for m in p.glob("*/manifest.json")})
    return f" Runs here: {', '.join(found[:5])}." if found else " Start one with: attune train DATA --model MODEL"
