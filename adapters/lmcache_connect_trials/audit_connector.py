"""`AuditConnector`: logs what every call did, and compares what a get brings with what was put."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import xxhash

from lmcache_connect import (
    ChunkMetadata,
    CorruptRecordError,
    Key,
    MemoryObj,
    Regions,
    RemoteConnector,
    WrappingConnector,
    key_string,
)
from lmcache_connect.contract import CallerMemory, Descriptions, Flags, Slots, end_scan
from lmcache_connect.errors import InvalidArgumentError
from lmcache_connect.memory import release_all
from lmcache_connect.observability import event

from .audit_options import AuditSettings
from .checksums import Checksums, Reading

T = TypeVar("T")

_PIECE: Final = 4 << 20
"""Bytes that are hashed at a time, in well under a millisecond. In between other tasks of the event loop run."""


def _bytes_of(result: object) -> int | None:
    items = result if isinstance(result, list) else [result]
    sizes = [item.get_size() for item in items if isinstance(item, MemoryObj) and item.is_valid()]
    return sum(sizes) if sizes else None


class AuditConnector(WrappingConnector):
    """Logs the event `audit` for every call, and the event `audit_chunk` (debug) for every chunk of a batch.

    With `verify`, a get that brings other bytes than were put through this connector is a miss. It is counted as
    `corrupt:audit` and logged as the error `audit_mismatch`. The chunk stays in the store, since another writer may
    have put it. `verdicts` counts chunks that were as expected (`verified`), chunks that differed (`mismatch`), and
    chunks of whose keys nothing is known here (`unknown`).
    """

    def __init__(self, wrapped: RemoteConnector, store: str, settings: AuditSettings) -> None:
        super().__init__(wrapped)
        self._store = store
        self._settings = settings
        self.checksums: Final = Checksums(settings.remembered)
        """The checksums of what was put."""
        self.verdicts: Final[Counter[str]] = Counter()

    # -------------------------------------------------------------------------------------------------- chunks

    async def get(self, key: Key) -> MemoryObj | None:
        """The chunk, or None where the store has none.

        Raises:
            CorruptRecordError: the chunk is not what was put.
        """

        async def call() -> MemoryObj | None:
            reading = self.checksums.begin_get(key_string(key))
            obj = await self.wrapped.get(key)
            try:
                if (error := await self._difference(key, reading, obj)) is not None:
                    raise error
            except BaseException:
                release_all(obj)  # the caller may also have been cancelled while its chunk was compared
                raise
            return obj

        return await self.around("get", (key,), call)

    async def batched_get(self, keys: Sequence[Key]) -> Slots:
        """One slot per key; None for a miss, and for a chunk that is not what was put."""

        async def call() -> Slots:
            readings = [self.checksums.begin_get(key_string(key)) for key in keys]
            found = await self.wrapped.batched_get(keys)
            if isinstance(found, list) and len(found) == len(keys):
                return await self._verified(keys, readings, found)
            # Which chunk belongs to which key is not known, so each key is asked for alone.
            release_all(found)
            return await RemoteConnector.batched_get(self, keys)

        return await self.around("batched_get", keys, call)

    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        """Puts the chunk into the wrapped connector, and remembers its checksum."""

        async def call() -> None:
            await self._remembering((key,), (memory_obj,), lambda: self.wrapped.put(key, memory_obj))

        await self.around("put", (key,), call, memory_obj.get_size())

    async def batched_put(self, keys: Sequence[Key], memory_objs: Sequence[MemoryObj]) -> None:
        """Puts the chunks into the wrapped connector, and remembers their checksums."""
        if len(keys) != len(memory_objs):
            raise InvalidArgumentError("memory_objs", f"{len(memory_objs)} objects for {len(keys)} keys")

        async def call() -> None:
            await self._remembering(keys, memory_objs, lambda: self.wrapped.batched_put(keys, memory_objs))
            if self._is_logged("batched_put"):
                for key, obj in zip(keys, memory_objs, strict=True):
                    self._chunk_event("batched_put", key, obj.get_size(), "stored")

        await self.around("batched_put", keys, call, sum(obj.get_size() for obj in memory_objs))

    async def get_into(self, key: Key, buffer: Any, metadata: ChunkMetadata | None = None) -> bool:
        """Whether the chunk has come into memory of the caller; False for one that is not what was put."""
        with CallerMemory.of([key], [buffer], metadata, writable=True) as theirs:

            async def call() -> bool:
                return (await self._received("get_into", theirs))[0]

            return await self.around("get_into", (key,), call, bytes_of=lambda found: theirs.nbytes if found else None)

    async def batched_get_into(
        self, keys: Sequence[Key], buffers: Sequence[Any], metadata: Descriptions = None
    ) -> Flags:
        """One answer per key; False for a miss, and for a chunk that is not what was put."""
        with CallerMemory.of(keys, buffers, metadata, writable=True) as theirs:

            def bytes_of(found: Flags) -> int:
                return sum(regions.nbytes for regions, has_come in zip(theirs.regions, found, strict=True) if has_come)

            async def call() -> Flags:
                return await self._received("batched_get_into", theirs)

            return await self.around("batched_get_into", keys, call, bytes_of=bytes_of)

    async def put_from(self, key: Key, buffer: Any, metadata: ChunkMetadata | None = None) -> bool:
        """Puts the chunk into the wrapped connector, and remembers its checksum. Returns whether it was stored."""
        with CallerMemory.of([key], [buffer], metadata, writable=False) as theirs:

            async def call() -> bool:
                return (await self._sent("put_from", theirs))[0]

            return await self.around("put_from", (key,), call, theirs.nbytes)

    async def batched_put_from(
        self, keys: Sequence[Key], buffers: Sequence[Any], metadata: Descriptions = None
    ) -> Flags:
        """Puts the chunks into the wrapped connector, and remembers their checksums. One answer per key."""
        with CallerMemory.of(keys, buffers, metadata, writable=False) as theirs:

            async def call() -> Flags:
                return await self._sent("batched_put_from", theirs)

            return await self.around("batched_put_from", keys, call, theirs.nbytes)

    async def remove(self, key: Key) -> bool:
        """Removes the key from the wrapped connector, and forgets its checksum. Returns whether it was there."""
        try:
            return await super().remove(key)
        finally:
            self.checksums.forget(key_string(key))

    async def batched_remove(self, keys: Sequence[Key]) -> Flags:
        """Removes the keys from the wrapped connector, and forgets their checksums. One answer per key."""
        try:
            return await super().batched_remove(keys)
        finally:
            for key in keys:
                self.checksums.forget(key_string(key))

    # ------------------------------------------------------------------------------------------------- logging

    async def around(
        self,
        operation: str,
        keys: Sequence[Key],
        call: Callable[[], Awaitable[T]],
        nbytes: int | None = None,
        bytes_of: Callable[[T], int | None] = _bytes_of,
    ) -> T:
        """Returns what `call()` returns, and logs the event.

        `nbytes` is the number of bytes that the call puts. `bytes_of` tells those that a get has brought.
        """
        if not self._is_logged(operation):
            return await call()
        started = time.perf_counter()
        try:
            result = await call()
        except asyncio.CancelledError:
            self._event(logging.INFO, operation, keys, started, "cancelled", nbytes)
            raise
        except CorruptRecordError as error:
            self._event(logging.WARNING, operation, keys, started, f"corrupt:{error.reason}", nbytes)
            raise
        except BaseException as error:
            # Not its text: the manager logs that, and knows whether the call is tried again.
            self._event(logging.WARNING, operation, keys, started, type(error).__name__, nbytes)
            raise
        moved = nbytes if nbytes is not None else bytes_of(result)
        self._event(logging.INFO, operation, keys, started, _outcome(operation, result), moved)
        return result

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        """The keys of the wrapped connector. Logs one event at the end."""
        started = time.perf_counter()
        count = 0
        outcome = "left"
        names = super().scan(prefix)
        try:
            async for name in names:
                count += 1
                yield name
            outcome = f"{count} keys"
        except (GeneratorExit, asyncio.CancelledError):
            raise
        except BaseException as error:
            outcome = type(error).__name__
            raise
        finally:
            await end_scan(names)
            if self._is_logged("scan"):
                self._event(logging.INFO, "scan", (), started, outcome, None)

    async def close(self) -> None:
        """Closes the wrapped connector."""
        await self.around("close", (), super().close)

    def _is_logged(self, operation: str) -> bool:
        return operation not in self._settings.exclude

    def _event(
        self, level: int, operation: str, keys: Sequence[Key], started: float, outcome: str, nbytes: int | None
    ) -> None:
        facts: dict[str, Any] = {"store": self._store, "operation": operation}
        if operation.startswith("batched"):
            facts["keys"] = len(keys)
        elif keys:
            facts["key"] = key_string(keys[0])
        if nbytes is not None:
            facts["bytes"] = nbytes
        event(level, "audit", **facts, ms=round((time.perf_counter() - started) * 1000, 3), outcome=outcome)

    def _chunk_event(self, operation: str, key: Key, nbytes: int, outcome: str) -> None:
        event(
            logging.DEBUG,
            "audit_chunk",
            store=self._store,
            operation=operation,
            key=key_string(key),
            bytes=nbytes,
            outcome=outcome,
        )

    # ----------------------------------------------------------------------------------------------- verifying

    async def _verified(self, keys: Sequence[Key], readings: Sequence[Reading], found: Slots) -> Slots:
        slots = list(found)
        try:
            for index, (key, reading) in enumerate(zip(keys, readings, strict=True)):
                error = await self._difference(key, reading, slots[index])
                if self._is_logged("batched_get"):
                    obj = slots[index]
                    outcome = "miss" if obj is None else "hit" if error is None else f"corrupt:{error.reason}"
                    self._chunk_event("batched_get", key, 0 if obj is None else obj.get_size(), outcome)
                if error is not None:
                    release_all(slots[index])
                    slots[index] = None
                    await self.discard_corrupt(key, error)
        except BaseException:
            release_all(slots)
            raise
        return slots

    async def _difference(self, key: Key, reading: Reading, obj: MemoryObj | None) -> CorruptRecordError | None:
        """What is wrong with the chunk that a get brought, or None. The chunk stays the caller's, also on an error."""
        if obj is None or not isinstance(obj, MemoryObj) or not obj.is_valid():
            return None
        return await self._judged(key, reading, obj)

    async def _judged(self, key: Key, reading: Reading, chunk: MemoryObj | Regions) -> CorruptRecordError | None:
        if not self._settings.verify:
            return None
        checksum = await _checksum(chunk) if self.checksums.allowed(reading) is not None else 0
        allowed = self.checksums.allowed(reading)
        self.verdicts["unknown" if allowed is None else "verified" if checksum in allowed else "mismatch"] += 1
        if allowed is None or checksum in allowed:
            return None
        name = key_string(key)
        nbytes = _size(chunk)
        event(logging.ERROR, "audit_mismatch", store=self._store, key=name, bytes=nbytes, checksum=f"{checksum:016x}")
        detail = f"{nbytes} bytes with the checksum {checksum:016x} are not what was put through this connector"
        return CorruptRecordError("audit", detail, removable=False)

    async def _received(self, operation: str, theirs: CallerMemory) -> Flags:
        """What the wrapped connector has received into memory of the caller, compared with what was put."""
        readings = [self.checksums.begin_get(key_string(key)) for key in theirs.keys]
        found = list(await self.wrapped.batched_get_into(theirs.keys, theirs.regions, theirs.descriptions))
        for index, (key, reading) in enumerate(zip(theirs.keys, readings, strict=True)):
            error = await self._judged(key, reading, theirs.regions[index]) if found[index] else None
            if operation == "batched_get_into" and self._is_logged(operation):
                outcome = "miss" if not found[index] else "hit" if error is None else f"corrupt:{error.reason}"
                self._chunk_event(operation, key, theirs.regions[index].nbytes if found[index] else 0, outcome)
            if error is not None:
                found[index] = False
                await self.discard_corrupt(key, error)
        return found

    async def _sent(self, operation: str, theirs: CallerMemory) -> Flags:
        """What the wrapped connector has stored from memory of the caller. Its checksums are remembered."""
        stored: Flags = []

        async def call() -> Flags:
            stored.extend(await self.wrapped.batched_put_from(theirs.keys, theirs.regions, theirs.descriptions))
            return stored

        await self._remembering(theirs.keys, theirs.regions, call)
        if operation == "batched_put_from" and self._is_logged(operation):
            for key, regions, is_stored in zip(theirs.keys, theirs.regions, stored, strict=True):
                self._chunk_event(operation, key, regions.nbytes, "stored" if is_stored else "not stored")
        return stored

    async def _remembering(
        self,
        keys: Sequence[Key],
        chunks: Sequence[MemoryObj | Regions],
        call: Callable[[], Awaitable[Flags | None]],
    ) -> None:
        """Remembers the checksums of what `call` puts. It returns which of the chunks were stored; None: all."""
        if not self._settings.verify:
            await call()
            return
        checksums = [await _checksum(chunk) for chunk in chunks]
        records = [
            self.checksums.begin_put(key_string(key), checksum) for key, checksum in zip(keys, checksums, strict=True)
        ]
        stored: Flags | None = [False] * len(records)
        try:
            stored = await call()
        finally:
            for index, (record, checksum) in enumerate(zip(records, checksums, strict=True)):
                self.checksums.end_put(record, checksum, stored is None or stored[index])


def _size(chunk: MemoryObj | Regions) -> int:
    return chunk.nbytes if isinstance(chunk, Regions) else chunk.get_size()


async def _checksum(chunk: MemoryObj | Regions) -> int:
    hasher = xxhash.xxh3_64()
    for start in range(0, _size(chunk), _PIECE):
        if start:
            await asyncio.sleep(0)
        _hash_piece(hasher, chunk, start)
    return hasher.intdigest()


def _hash_piece(hasher: xxhash.xxh3_64, chunk: MemoryObj | Regions, start: int) -> None:
    # A function of its own: a frame that awaits must hold no view of a chunk's memory.
    if isinstance(chunk, Regions):
        for view in chunk.views_of(start, min(start + _PIECE, chunk.nbytes)):
            hasher.update(view)
    else:
        with chunk.byte_array as view:
            hasher.update(view[start : start + _PIECE])


def _outcome(operation: str, result: object) -> str:
    match result:
        case None:
            return "miss" if operation == "get" else "done"
        case bool():
            return "yes" if result else "no"
        case int():
            return str(result)
        case MemoryObj():
            return "hit"
        case [*items] if all(isinstance(item, str) for item in items) and items:
            return f"{len(items)} keys"
        case [*items]:
            hits = sum(item is not None and item is not False for item in items)
            return f"{hits} of {len(items)}"
        case _:
            return type(result).__name__
