"""Prepared rows kept between runs: found again by the content of everything that they depend on."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from attune.config import Config
from attune.data.encoding.template import ChatTemplate
from attune.data.files import DataFile
from attune.data.pack import pack, unpack
from attune.data.prepared import Look, Prepared
from attune.data.reading.hub import is_hub
from attune.data.reading.sources import find_ignored
from attune.errors import ConfigError

FORMAT = 1
SMALL_BYTES = 4 * 1024 * 1024  # of data files: what takes a second or two is prepared anew, unless a folder is named
MOST_BYTES = 10 * 1024**3  # of all entries; the ones used longest ago go first
ALIGNMENT = 64  # bytes
BLOCK = 1 << 22  # bytes read at once
DOCUMENT, ARRAYS = "document.json", "arrays.bin"
# settings that change neither tokens nor findings
BESIDE = ("cache", "workers", "share_prefixes")
PACKAGES = ("attune-sft", "numpy", "tokenizers", "orjson", "jinja2", "rensa", "py3langid", "jsonschema-rs", "xxhash")


class _DamagedError(Exception):
    """An entry that is not what was written."""


@dataclass
class Cache:
    """Where the rows of one preparation are kept, or would be."""

    root: Path
    key: str
    note: str = "not in the cache"  # how the rows were found, or why not

    @property
    def entry(self) -> Path:
        """The folder of this preparation."""
        return self.root / self.key

    def read(self, template: ChatTemplate, look: Look) -> Prepared | None:
        """Return the rows as they were prepared before, their arrays mapped into memory; None if they are not there.

        A damaged entry is taken away. `look`: how to read all rows, should somebody ask for more than is kept.
        """
        if not self.entry.is_dir():
            return None
        try:
            document, arrays = _load(self.entry)
            prepared = unpack(document, arrays, template, look=look)
        except (OSError, ValueError, KeyError, TypeError, IndexError, _DamagedError) as error:
            shutil.rmtree(self.entry, ignore_errors=True)
            self.note = f"damaged in the cache ({_fault_text(error)})"
            return None
        _touch(self.entry)
        return replace(prepared, notes=(f"prepared rows: found in the cache, {self.root}", *prepared.notes))

    def write(self, prepared: Prepared) -> Prepared:
        """Keep prepared rows, whole or not at all; return them with a note about it."""
        try:
            document, arrays = pack(prepared)
            _save(self.entry, document, arrays)
            _forget_oldest(self.root, keep=self.entry)
            said = f"kept in {self.root}"
        except (TypeError, ValueError) as error:
            said = f"not kept: {error}"
        except OSError as error:
            said = f"not kept in {self.root}: {error.strerror or error}"
        return replace(prepared, notes=(f"prepared rows: {self.note}; prepared anew and {said}", *prepared.notes))


def open_cache(
    config: Config, files: Sequence[DataFile], template: ChatTemplate, limit: tuple[int, str]
) -> Cache | None:
    """Return the place for a preparation; None where nothing is kept: off, a Hub set, or small data under "auto".

    `limit`: the longest row in tokens, and why.
    Raises: ConfigError when the folder that data.cache names cannot be written to.
    """
    choice = config.data.cache
    if choice == "off" or any(is_hub(file.path) for file in files):
        return None
    if choice == "auto" and sum(Path(file.path).stat().st_size for file in files) < SMALL_BYTES:
        return None
    root = default_folder() if choice == "auto" else Path(choice).expanduser()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if choice == "auto":
            return None
        raise ConfigError(
            f"data.cache: {root} cannot be made a folder: {error.strerror}.\nName another one, or data.cache = off."
        ) from error
    return Cache(root, key_of(config, files, template, limit))


def default_folder() -> Path:
    """Return attune's folder among the user's caches."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(named) if named else Path.home() / ".cache") / "attune"


def key_of(config: Config, files: Sequence[DataFile], template: ChatTemplate, limit: tuple[int, str]) -> str:
    """Return a hash of everything that prepared rows depend on: data, settings, template, tokenizer and code."""
    settings = {key: value for key, value in config.data.model_dump(mode="json").items() if key not in BESIDE}
    tokenizer, beside = template.tokenizer, (config.data.ignore, config.data.answer_schema)
    facts = {
        "format": FORMAT,
        "code": _code(),
        "settings": settings,
        "seed": config.seed,
        "limit": limit,
        "files": [[file.path, file.part, file.source, file.weight, _hash_file(Path(file.path))] for file in files],
        "beside": [_hash_file(Path(path)) if path and Path(path).is_file() else "" for path in beside],
        "ignored": find_ignored(config.data.train),
        "template": [template.name, template.source, template.reason],
        "tokenizer": [tokenizer.fingerprint(), tokenizer.bos_token, tokenizer.eos_token, tokenizer.stop_ids],
    }
    return xxhash.xxh3_128_hexdigest(json.dumps(facts, sort_keys=True).encode())


@cache
def _code() -> str:
    """Return a hash of the code that prepares rows, and the versions of what it stands on."""
    digest = xxhash.xxh3_128(f"{sys.version_info[:2]} {[_version(name) for name in PACKAGES]}".encode())
    here = Path(__file__).parent
    for path in [*sorted(here.rglob("*.py")), here.parent / "types.py"]:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _hash_file(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _save(entry: Path, document: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an entry beside its place, then move it there: it is there as a whole or not at all."""
    beside = Path(tempfile.mkdtemp(prefix=f"{entry.name}.", dir=entry.parent))
    try:
        table, digest, at = {}, xxhash.xxh3_128(), 0
        with (beside / ARRAYS).open("wb") as file:
            for name, array in arrays.items():
                raw = np.ascontiguousarray(array).tobytes()
                raw += b"\0" * (-len(raw) % ALIGNMENT)
                file.write(raw)
                digest.update(raw)
                table[name] = [array.dtype.str, list(array.shape), at]
                at += len(raw)
        text = json.dumps({"document": document, "arrays": table, "bytes": at, "digest": digest.hexdigest()}).encode()
        (beside / DOCUMENT).write_bytes(xxhash.xxh3_128_hexdigest(text).encode() + b"\n" + text)
        try:
            beside.rename(entry)
        except OSError:
            if not entry.is_dir():  # else another process was faster, with the same rows
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _fault_text(error: Exception) -> str:
    """Say what is wrong with an entry that cannot be read."""
    if isinstance(error, OSError):
        return f"{Path(error.filename).name if error.filename else 'a file'}: {error.strerror or error}"
    return str(error) if isinstance(error, _DamagedError) else f"{DOCUMENT} holds something else than rows"


def _load(entry: Path) -> tuple[Mapping[str, Any], dict[str, NDArray[Any]]]:
    """Return an entry's document and its arrays, which lie in the file until they are looked at.

    What is written into such an array stays in this process. Raises: _DamagedError when a byte is not as written.
    """
    digest, _, text = (entry / DOCUMENT).read_bytes().partition(b"\n")
    if xxhash.xxh3_128_hexdigest(text).encode() != digest:
        raise _DamagedError(f"{DOCUMENT} is not what was written")
    whole = json.loads(text)
    path = entry / ARRAYS
    if path.stat().st_size != whole["bytes"] or _hash_file(path) != whole["digest"]:
        raise _DamagedError(f"{ARRAYS} is not what was written")
    raw = np.memmap(path, np.uint8, mode="c") if whole["bytes"] else np.zeros(0, np.uint8)
    return whole["document"], {name: _array(raw, *place) for name, place in whole["arrays"].items()}


def _array(raw: NDArray[np.uint8], kind: str, shape: list[int], at: int) -> NDArray[Any]:
    """Return an array of a mapped file; as a plain one, since slices of a memmap take ten times as long."""
    dtype = np.dtype(kind)
    size = dtype.itemsize * int(np.prod(shape))
    return raw.view(np.ndarray)[at : at + size].view(dtype).reshape(shape)


def _touch(entry: Path) -> None:
    """Note that an entry was used; where that cannot be noted it only goes earlier."""
    try:
        os.utime(entry)
    except OSError:
        return


def _forget_oldest(root: Path, *, keep: Path) -> None:
    """Delete the entries used longest ago until all fit into MOST_BYTES; what was just written stays."""
    entries = sorted(_entries(root), reverse=True)
    total = 0
    for _, size, entry in entries:
        total += size
        if total > MOST_BYTES and entry != keep:
            shutil.rmtree(entry, ignore_errors=True)


def _entries(root: Path) -> Iterator[tuple[float, int, Path]]:
    """Yield when each entry was last used, its bytes and its folder; of other folders, none."""
    for document in root.glob(f"*/{DOCUMENT}"):
        entry = document.parent
        try:
            size = sum(path.stat().st_size for path in (document, entry / ARRAYS))
            yield entry.stat().st_mtime, size, entry
        except OSError:  # deleted by another process meanwhile
            continue
