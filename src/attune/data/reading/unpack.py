"""Opening a data file so that its bytes come out plain: gzip, bzip2, xz and zstd are told by their first bytes."""

from __future__ import annotations

import bz2
import io
import lzma
import re
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from attune.errors import DataError

if TYPE_CHECKING:
    from typing_extensions import Buffer

BUFFER = 128 * 1024  # bytes that are unpacked at once, and that may be looked at before reading
# packed bytes taken at once: of gzip and zstd, which give all that comes out of them, so few that it is at most 32 MB
BLOCKS = {"gzip": 16384, "bzip2": 16384, "xz": 16384, "zstd": 1024}
ENDINGS = (".gz", ".bz2", ".xz", ".zst", ".zstd")


# What unpacks one stream; an archive is one or more of them, end to end. All libraries have decompress(data), eof and
# unused_data. bzip2 and xz, which can pack a million to one, also take the most bytes to give, and have needs_input.
_Frame: TypeAlias = Any


def packing_of(path: Path) -> str:
    """Return what a file is packed with, "gzip", "bzip2", "xz" or "zstd" as its first bytes say; "" for none.

    Raises: DataError when the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    return next((name for magic, name in _MAGIC if magic.match(head)), "")


def plain_name(name: str) -> str:
    """Return a file's name in lower case without the ending that says how it is packed."""
    name = name.lower()
    return next((name.removesuffix(ending) for ending in ENDINGS if name.endswith(ending)), name)


def open_plain(path: Path) -> io.BufferedReader:
    """Return a file opened at its first unpacked byte; `peek` shows up to 128 KiB of it.

    Nothing is unpacked ahead of what is read, so a small archive that unpacks to a huge file costs no memory.

    Raises: DataError when the file cannot be opened, and while it is read when the archive is broken or ends early.
    """
    packing = packing_of(path)
    if not packing:
        return io.BufferedReader(io.FileIO(path), BUFFER)
    open_frame = _OPENERS[packing](path)  # before the file, which would stay open if the library is missing
    return io.BufferedReader(_Unpacked(path, packing, (path.open("rb"), open_frame)), BUFFER)


class _Unpacked(io.RawIOBase):
    """The plain bytes of a packed file, stream after stream; the faults of all libraries become one.

    The file classes of the standard library are not used: they take what follows a stream for nothing when it is no
    stream itself, so the rest of a damaged archive would be lost in silence.
    """

    def __init__(self, path: Path, packing: str, opened: tuple[BinaryIO, Callable[[], _Frame]]) -> None:
        super().__init__()
        self._path, self._packing = path, packing
        self._file, self._open_frame = opened
        self._frame: _Frame = None
        self._most = (BUFFER,) if packing in ("bzip2", "xz") else ()
        self._rest, self._ready = b"", memoryview(b"")

    def readable(self) -> bool:
        """Return True: this is for reading."""
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        """Fill the buffer to its end unless the file ends, so that `peek` sees all that it may."""
        view, done = memoryview(buffer), 0
        while done < len(view) and (self._ready or self._unpack_more()):
            block = self._ready[: len(view) - done]
            view[done : done + len(block)] = block
            done += len(block)
            self._ready = self._ready[len(block) :]
        return done

    def close(self) -> None:
        """Close the file below too."""
        self._file.close()
        super().close()

    def _unpack_more(self) -> bool:
        """Unpack until there are bytes to give; False at the end."""
        while not self._ready:
            if self._frame is not None and not getattr(self._frame, "needs_input", True):
                self._ready = memoryview(self._unpack(b""))
                continue
            block = self._rest or self._file.read(BLOCKS[self._packing])
            if not block and self._frame is not None:
                raise DataError(f"{self._path} ends early: the {self._packing} archive is incomplete. Copy it again.")
            if not block:
                return False
            self._ready = memoryview(self._unpack(block))
        return True

    def _unpack(self, block: bytes) -> bytes:
        if self._frame is None:
            block = block.lstrip(b"\0")  # xz and gzip allow padding between streams
            self._rest = b""
            if not block:
                return b""
            self._frame = self._open_frame()
        try:
            plain: bytes = self._frame.decompress(block, *self._most)
        except Exception as error:  # each library has errors of its own
            text = f"{self._path} is a broken {self._packing} archive: {error}. Copy it again."
            raise DataError(text) from error
        self._rest = self._frame.unused_data if self._frame.eof else b""
        if self._frame.eof:
            self._frame = None
        return plain


def _open_gzip(_: Path) -> Callable[[], _Frame]:
    return lambda: zlib.decompressobj(wbits=31)


def _open_bzip2(_: Path) -> Callable[[], _Frame]:
    return bz2.BZ2Decompressor


def _open_xz(_: Path) -> Callable[[], _Frame]:
    return lzma.LZMADecompressor


def _open_zstd(path: Path) -> Callable[[], _Frame]:
    """Return what unpacks zstd: Python's own from 3.14 on, before that the package zstandard."""
    if sys.version_info >= (3, 14):
        from compression.zstd import ZstdDecompressor

        return ZstdDecompressor
    try:
        import zstandard
    except ImportError as error:
        text = f'{path} is zstd-compressed: pip install "attune-sft[zstd]", or unpack it with zstd -d.'
        raise DataError(text) from error
    return lambda: zstandard.ZstdDecompressor().decompressobj()


_MAGIC = (
    (re.compile(rb"\x1f\x8b"), "gzip"),
    (re.compile(rb"BZh[1-9]1AY&SY"), "bzip2"),
    (re.compile(rb"\xfd7zXZ\x00"), "xz"),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "zstd"),
)
_OPENERS: dict[str, Callable[[Path], Callable[[], _Frame]]] = {
    "gzip": _open_gzip,
    "bzip2": _open_bzip2,
    "xz": _open_xz,
    "zstd": _open_zstd,
}
