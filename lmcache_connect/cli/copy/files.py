"""`lmcache-connect get` and `put`: one chunk into a file, or from one."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final

import anyio.to_thread
import xxhash

from ...dtypes import dtype_of
from ...errors import ArenaExhaustedError, InvalidArgumentError, LMCacheConnectError
from ...keys import check_key_string
from ...memory import MemoryObj
from ...metadata import ChunkMetadata, MemoryFormat
from ..frame.opening import command_config, open_store
from ..frame.payloads import Reading, read_payload
from .npy import MAGIC, npy_header, read_npy_header

STREAM: Final = "-"
"""The name that stands for stdin and stdout."""

_PIECE: Final = 8 << 20


class ChunkUnreadableError(LMCacheConnectError):
    """The store has no whole chunk under a key."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(f"{key!r}: {why}")
        self.key = key
        self.why = why


@dataclass(frozen=True)
class FileReport:
    """A chunk that went into a file, or came from one. `store` is a redacted URL. `xxh3` is the payload's hash."""

    store: str
    key: str
    file: str
    nbytes: int
    metadata: ChunkMetadata
    xxh3: int


async def get_file(url: str, key: str, file: str, *, npy: bool, memory: int | None) -> FileReport:
    """Writes the payload of a chunk into a file, or stdout. What was there stays until all of it is there.

    `npy`: with numpy's header.

    Raises:
        ChunkUnreadableError: the store does not hold the key, or its record is damaged.
        LMCacheConnectError: the store cannot be used. OSError: the file cannot be written.
    """
    check_key_string(key)
    config = command_config() if memory is None else command_config(max_local_cpu_bytes=memory)
    async with open_store(url, config=config) as connector:
        [facts] = await connector.describe([key], records=True)
        found = await read_payload(connector, key, facts)
        if found.chunk is None:
            why = "there is no such key" if found.reading is Reading.MISSING else f"it is {found.reading}: {found.why}"
            raise ChunkUnreadableError(key, why)
        with found.chunk as chunk:
            head = npy_header(chunk.metadata) if npy else b""
            xxh3 = await anyio.to_thread.run_sync(partial(_write, chunk, head, file))
            metadata = chunk.metadata
        store = connector.context.remote_url.redacted()
    return FileReport(store, key, file, metadata.nbytes, metadata, xxh3)


async def put_file(
    url: str,
    key: str,
    file: str,
    *,
    shape: tuple[int, ...] | None,
    dtype: str | None,
    fmt: str | None,
    memory: int | None,
) -> FileReport:
    """Stores the bytes of a file, or of stdin, as a chunk.

    Without `shape` and `dtype` it is one row of bytes, or what the header of a `.npy` file says.

    Raises:
        InvalidArgumentError: the file does not fit the shape, or is empty.
        ArenaExhaustedError: it is larger than the memory.
        LMCacheConnectError: the store cannot be used. OSError: the file cannot be read.
    """
    check_key_string(key)
    config = command_config() if memory is None else command_config(max_local_cpu_bytes=memory)
    with _opened(file) as source:
        metadata, start = _described(source, file, shape, dtype, fmt, config.max_local_cpu_bytes)
        async with open_store(url, config=config) as connector:
            chunk = connector.context.local_cpu_backend.allocate_chunk(metadata)
            if chunk is None:
                limit = connector.context.local_cpu_backend.chunk_limit()
                raise ArenaExhaustedError(metadata.nbytes, limit, limit, "see --memory")
            with chunk:
                xxh3 = await anyio.to_thread.run_sync(partial(_read, chunk, start, source, file))
                await connector.put(key, chunk)
            store = connector.context.remote_url.redacted()
    return FileReport(store, key, file, metadata.nbytes, metadata, xxh3)


def _write(chunk: MemoryObj, head: bytes, file: str) -> int:
    hasher = xxhash.xxh3_64()
    with _target(file) as target, chunk.byte_array as view:
        target.write(head)
        for start in range(0, len(view), _PIECE):
            piece = view[start : start + _PIECE]
            hasher.update(piece)
            target.write(piece)
        target.flush()
    return hasher.intdigest()


@contextmanager
def _target(file: str) -> Iterator[BinaryIO]:
    """What to write to. A file gets its name when all of it was written, and nothing is left of it otherwise.

    A link stays one. A device, such as /dev/null, or a pipe is written to, and never replaced by a file.
    """
    if file == STREAM:
        yield sys.stdout.buffer
        return
    if Path(file).exists() and not Path(file).is_file():
        with Path(file).open("wb") as target:
            yield target
        return
    path = Path(file).resolve()
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:64]}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as target:
            yield target
            os.fchmod(target.fileno(), _mode(path))
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _mode(path: Path) -> int:
    """The mode of a file that is replaced, or of a new one."""
    try:
        return path.stat().st_mode & 0o777
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    if file == STREAM:
        yield sys.stdin.buffer
        return
    with Path(file).open("rb") as source:
        yield source


def _described(
    source: BinaryIO, file: str, shape: tuple[int, ...] | None, dtype: str | None, fmt: str | None, most: int
) -> tuple[ChunkMetadata, bytes]:
    """What the chunk of a file is, and the bytes of its payload that were read already."""
    start = source.read(len(MAGIC))
    known = dtype_of(dtype) if dtype is not None else None
    if start == MAGIC and shape is None and known is None:
        shape, known = read_npy_header(source, file)
        start = b""
    if file == STREAM or not stat.S_ISREG(os.fstat(source.fileno()).st_mode):  # of a pipe nothing tells the length
        start += source.read(most + 1 - len(start))
        nbytes = len(start)
    else:
        nbytes = len(start) + os.fstat(source.fileno()).st_size - source.tell()
    if not nbytes:
        raise InvalidArgumentError("file", f"{file} is empty, and a chunk is not")
    known = known or dtype_of("uint8")
    if shape is None:
        if nbytes % known.itemsize:
            raise InvalidArgumentError("dtype", f"{nbytes} bytes make no whole number of {known.name}")
        shape = (nbytes // known.itemsize,)
    metadata = ChunkMetadata.of([shape], [known], _format(fmt))
    if metadata.nbytes != nbytes:
        raise InvalidArgumentError("shape", f"{file} has {nbytes} bytes; {shape} of {known.name} has {metadata.nbytes}")
    return metadata, start


def _format(name: str | None) -> MemoryFormat:
    if name is None:
        return MemoryFormat.UNDEFINED
    try:
        return MemoryFormat[name.upper()]
    except KeyError:
        known = ", ".join(each.name for each in MemoryFormat)
        raise InvalidArgumentError("format", f"{name!r}; expected one of {known}") from None


def _read(chunk: MemoryObj, start: bytes, source: Any, file: str) -> int:
    with chunk.byte_array as view:
        view[: len(start)] = start
        at = len(start)
        while at < len(view):
            count = source.readinto(view[at : at + _PIECE])
            if not count:
                raise InvalidArgumentError("file", f"{file} became shorter while it was read")
            at += count
        return xxhash.xxh3_64_intdigest(view)
