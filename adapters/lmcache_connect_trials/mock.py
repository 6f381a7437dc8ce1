"""`mock://capacity/`: a store in memory with a configured latency and throughput."""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import Field

from lmcache_connect import (
    ArenaExhaustedError,
    ChunkMetadata,
    ConnectorAdapter,
    ConnectorContext,
    ConnectorOptions,
    CorruptRecordError,
    InvalidURLError,
    Key,
    MemoryObj,
    Regions,
    RemoteConnector,
    RemoteURL,
    key_string,
)
from lmcache_connect.contract import MISMATCH, BatchSlots, CallerMemory, Descriptions, Flags, Slots, note_missed
from lmcache_connect.errors import InvalidArgumentError, ValueTooLargeError
from lmcache_connect.memory import release_all

from .bandwidth import Bandwidth

_GIB: Final = 1 << 30
_PIECE: Final = 1 << 20
"""Bytes that are copied at a time. In between other tasks of the event loop run."""

_SHAPE: Final = "mock://<capacity in GiB>/?peeking_latency=1&read_throughput=2&write_throughput=2"

Throughput = Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)]


class MockOptions(ConnectorOptions):
    """`mock://capacity/?option=value`, with LMCache's names and units."""

    peeking_latency: Annotated[float, Field(ge=0, le=3_600_000, allow_inf_nan=False)] = 1.0
    """Milliseconds before the store answers a call. A batch is one call."""

    read_throughput: Throughput = 2.0
    """GiB per second that all gets receive together."""

    write_throughput: Throughput = 2.0
    """GiB per second that all puts send together."""


@dataclass(frozen=True)
class _Stored:
    metadata: ChunkMetadata
    pieces: tuple[bytes, ...]


class MockConnector(RemoteConnector):
    """Keeps chunks in this process, up to `capacity` bytes, and drops the least recently used ones.

    Each connector has chunks of its own and drops them when it is closed. Waiting never blocks the event loop.
    """

    def __init__(self, context: ConnectorContext, capacity: int, options: MockOptions) -> None:
        super().__init__(context.config, context.metadata)
        self._store = context.remote_url.label()
        self._backend = context.local_cpu_backend
        self._allocate_timeout = context.settings.allocate_timeout
        self._latency = options.peeking_latency / 1000
        self._reads = Bandwidth(options.read_throughput * _GIB)
        self._writes = Bandwidth(options.write_throughput * _GIB)
        self._chunks: OrderedDict[str, _Stored] = OrderedDict()
        self.capacity: Final = capacity
        """The most bytes of payload that it keeps."""
        self.size = 0
        """Bytes of payload that it keeps."""

    # ------------------------------------------------------------------------------------------------- look-ups

    async def exists(self, key: Key) -> bool:
        """Whether the chunk is there. It then counts as used."""
        return (await self.batched_exists([key]))[0]

    async def batched_exists(self, keys: Sequence[Key]) -> Flags:
        """`exists` for every key, in one call of the store."""
        await self._answer()
        return [self._use(key_string(key)) is not None for key in keys]

    async def remove(self, key: Key) -> bool:
        """Removes the chunk. Returns whether it was there."""
        await self._answer()
        return self._drop(key_string(key))

    async def list(self) -> list[str]:
        """Every key, the least recently used first."""
        await self._answer()
        return list(self._chunks)

    async def ping(self) -> int:
        """0, after the latency."""
        await self._answer()
        return 0

    # --------------------------------------------------------------------------------------------------- chunks

    async def get(self, key: Key) -> MemoryObj | None:
        """The chunk, or None.

        Raises:
            ArenaExhaustedError: the arena had no room within `allocate_timeout`.
        """
        await self._answer()
        stored = self._use(key_string(key))
        return None if stored is None else await self._receive(stored)

    async def batched_get(self, keys: Sequence[Key]) -> Slots:
        """`get` for every key, in one call of the store."""
        slots = BatchSlots(len(keys))
        await self._answer()
        try:
            for slot, key in enumerate(keys):
                if (stored := self._use(key_string(key))) is None:
                    continue
                try:
                    slots.found[slot] = await self._receive(stored)
                except ArenaExhaustedError as error:
                    if slots.no_room(slot, error):
                        break
                    await self.discard_corrupt(key, CorruptRecordError("too_large", str(error)))
            slots.count_unwanted()
        except BaseException:
            release_all(slots.found)
            raise
        return slots.found

    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        """Keeps a copy.

        Raises:
            ValueTooLargeError: the chunk has more bytes than the capacity.
        """
        await self.batched_put([key], [memory_obj])

    async def batched_put(self, keys: Sequence[Key], memory_objs: Sequence[MemoryObj]) -> None:
        """`put` for every pair, in one call of the store."""
        if len(keys) != len(memory_objs):
            raise InvalidArgumentError("memory_objs", f"{len(memory_objs)} objects for {len(keys)} keys")
        for obj in memory_objs:
            if obj.get_size() > self.capacity:
                raise ValueTooLargeError(self._store, obj.get_size(), self.capacity)
        await self._answer()
        for key, obj in zip(keys, memory_objs, strict=True):
            self._keep(key_string(key), await self._send(obj))

    async def batched_get_into(
        self, keys: Sequence[Key], buffers: Sequence[Any], metadata: Descriptions = None
    ) -> Flags:
        """Copies the chunks into memory of the caller, in one call of the store. The arena has no part in it."""
        with CallerMemory.of(keys, buffers, metadata, writable=True) as theirs:
            await self._answer()
            return [await self._receive_into(theirs, index) for index in range(len(theirs.keys))]

    async def batched_put_from(
        self, keys: Sequence[Key], buffers: Sequence[Any], metadata: Descriptions = None
    ) -> Flags:
        """Keeps copies of memory of the caller, in one call of the store.

        Raises:
            ValueTooLargeError: a chunk has more bytes than the capacity. Nothing was stored.
        """
        with CallerMemory.of(keys, buffers, metadata, writable=False) as theirs:
            for regions in theirs.regions:
                if regions.nbytes > self.capacity:
                    raise ValueTooLargeError(self._store, regions.nbytes, self.capacity)
            await self._answer()
            for index, key in enumerate(theirs.keys):
                self._keep(key_string(key), await self._send_from(theirs.regions[index], theirs.stored_as(index)))
            return [True] * len(theirs.keys)

    async def close(self) -> None:
        """Drops every chunk."""
        self._chunks.clear()
        self.size = 0

    # --------------------------------------------------------------------------------------------------- inside

    async def _answer(self) -> None:
        if self._latency > 0:
            await asyncio.sleep(self._latency)

    async def _receive(self, stored: _Stored) -> MemoryObj:
        obj = await self._backend.allocate_chunk_async(stored.metadata, timeout=self._allocate_timeout)
        try:
            async with self._reads.transfer(obj.get_size()):
                with obj.byte_array as view:
                    start = 0
                    for piece in stored.pieces:
                        view[start : start + len(piece)] = piece
                        start += len(piece)
                        await asyncio.sleep(0)
        except BaseException:
            obj.ref_count_down()
            raise
        return obj

    async def _send(self, obj: MemoryObj) -> _Stored:
        pieces: list[bytes] = []
        async with self._writes.transfer(obj.get_size()):
            with obj.byte_array as view:
                for start in range(0, len(view), _PIECE):
                    pieces.append(bytes(view[start : start + _PIECE]))
                    await asyncio.sleep(0)
        return _Stored(obj.metadata, tuple(pieces))

    async def _receive_into(self, theirs: CallerMemory, index: int) -> bool:
        stored = self._use(key_string(theirs.keys[index]))
        if stored is None:
            return False
        if not theirs.accepts(index, stored.metadata):
            note_missed(MISMATCH)
            return False
        async with self._reads.transfer(stored.metadata.nbytes):
            start = 0
            for piece in stored.pieces:
                theirs.regions[index].write(start, piece)
                start += len(piece)
                await asyncio.sleep(0)
        return True

    async def _send_from(self, regions: Regions, metadata: ChunkMetadata) -> _Stored:
        pieces: list[bytes] = []
        async with self._writes.transfer(regions.nbytes):
            for start in range(0, regions.nbytes, _PIECE):
                pieces.append(b"".join(regions.views_of(start, min(start + _PIECE, regions.nbytes))))
                await asyncio.sleep(0)
        return _Stored(metadata, tuple(pieces))

    def _keep(self, name: str, stored: _Stored) -> None:
        self._drop(name)
        while self._chunks and self.size + stored.metadata.nbytes > self.capacity:
            self._drop(next(iter(self._chunks)))
        self._chunks[name] = stored
        self.size += stored.metadata.nbytes

    def _drop(self, name: str) -> bool:
        stored = self._chunks.pop(name, None)
        if stored is not None:
            self.size -= stored.metadata.nbytes
        return stored is not None

    def _use(self, name: str) -> _Stored | None:
        stored = self._chunks.get(name)
        if stored is not None:
            self._chunks.move_to_end(name)
        return stored


class MockConnectorAdapter(ConnectorAdapter):
    """`mock://capacity/`. Options: `MockOptions`."""

    schema = "mock://"
    options = MockOptions

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        """An empty store.

        Raises:
            InvalidURLError: the URL names no capacity.
        """
        return MockConnector(context, _capacity(context.remote_url), context.options(MockOptions))


def _capacity(url: RemoteURL) -> int:
    text = ",".join(map(str, url.hosts))
    is_number = re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,9})?", text) is not None
    if not is_number or url.username is not None or url.path not in {"", "/"}:
        raise InvalidURLError(url.redacted(), f"{text or 'nothing'!r} is not a capacity in GiB", _SHAPE)
    capacity = int(float(text) * _GIB)
    if capacity < 1:
        raise InvalidURLError(url.redacted(), "the capacity is less than one byte", _SHAPE)
    return capacity
