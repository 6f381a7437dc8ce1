"""One chunk's file: its key, a line feed, and the chunk's record.

The functions block, so they run in threads. The key comes first, so that a listing can read it, and an operator with
`head -n 1`. No key contains a line feed.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from io import FileIO
from pathlib import Path
from threading import Event
from typing import Final

from lmcache_connect import ChunkMetadata, CorruptRecordError
from lmcache_connect.errors import WrongTypeError
from lmcache_connect.keys import MAX_KEY_BYTES
from lmcache_connect.record import (
    MAX_HEADER_BYTES,
    OVERHEAD_BYTES,
    TRAILER_BYTES,
    FrameHeader,
    PayloadHasher,
    decode_header,
    encode_header,
)

PIECE: Final = 1 << 18
"""The bytes that are hashed and moved at a time, while the CPU's cache holds them."""

EXTRA_BYTES: Final = MAX_KEY_BYTES + 1 + OVERHEAD_BYTES
"""The most bytes of a file besides its payload."""

_FLAGS: Final = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class StoppedError(Exception):
    """The caller no longer waits for the result."""


class ChunkFile:
    """A chunk's file, open for reading. It stays readable when it is replaced or removed meanwhile."""

    def __init__(self, path: Path, store: str) -> None:
        """Opens the file. Raises `OSError`, such as `FileNotFoundError`, or `WrongTypeError`."""
        try:
            self._file = FileIO(os.open(path, _FLAGS))
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise WrongTypeError(store, f"{path.name} is a symbolic link, which is not followed") from error
            raise
        self.facts = os.fstat(self._file.fileno())
        if not stat.S_ISREG(self.facts.st_mode):
            self.close()
            raise WrongTypeError(store, f"{path.name} is not a regular file")

    def read_key(self) -> str | None:
        """The key at the start of the file; None where there is no key."""
        line, end, _ = os.pread(self._file.fileno(), MAX_KEY_BYTES + 1, 0).partition(b"\n")
        try:
            return line.decode() if end else None
        except UnicodeDecodeError:
            return None

    def read_header(self, key: str) -> FrameHeader:
        """The record's header, checked against the key and the file's length. Raises `CorruptRecordError`."""
        first = _first_line(key)
        start = os.pread(self._file.fileno(), len(first) + MAX_HEADER_BYTES, 0)
        if not start.startswith(first):
            raise CorruptRecordError("key", "the file begins with another key")
        header = decode_header(memoryview(start)[len(first) :], key, self.facts.st_size - len(first))
        if header.is_striped:
            raise CorruptRecordError("striped", "the chunk is striped over several keys")
        self._file.seek(len(first) + header.length)
        return header

    def read_payload(self, header: FrameHeader, payload: memoryview, stop: Event) -> None:
        """Fills `payload` and verifies it. Raises `CorruptRecordError`, or `StoppedError` soon after `stop` was set."""
        hasher = PayloadHasher()
        for start in range(0, len(payload), PIECE):
            if stop.is_set():
                raise StoppedError
            with payload[start : start + PIECE] as piece:
                self._fill(piece)
                hasher.update(piece)
        trailer = bytearray(TRAILER_BYTES)
        self._fill(memoryview(trailer))
        if header.has_checksum:
            hasher.verify(memoryview(trailer))

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()

    def _fill(self, view: memoryview) -> None:
        done = 0
        while done < len(view):
            got = self._file.readinto(view[done:])
            if not got:
                raise CorruptRecordError("length", "the file was cut short while it was read")
            done += got


def write_chunk(path: Path, work: Path, key: str, metadata: ChunkMetadata, payload: memoryview, stop: Event) -> None:
    """Creates or replaces the file at `path`, by renaming a temporary file from the folder `work`.

    The file at `path` is either complete or unchanged, even if the process is killed: its temporary file is not a
    chunk. Nothing is forced to the disk. After a power failure, a torn file fails its check.
    """
    descriptor, temporary = tempfile.mkstemp(dir=work)
    try:
        with FileIO(descriptor, "wb") as file:
            _write(file, memoryview(_first_line(key) + encode_header(key, metadata)))
            hasher = PayloadHasher()
            for start in range(0, len(payload), PIECE):
                if stop.is_set():
                    raise StoppedError
                with payload[start : start + PIECE] as piece:
                    hasher.update(piece)
                    _write(file, piece)
            _write(file, memoryview(hasher.trailer()))
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _write(file: FileIO, data: memoryview) -> None:
    done = 0
    while done < len(data):  # a disk that is nearly full writes a part, and refuses the next
        done += file.write(data[done:]) or 0


def _first_line(key: str) -> bytes:
    return f"{key}\n".encode()
