"""`HotConnector`: a hot cache in front of another connector."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from lmcache_connect import ArenaExhaustedError, Key, LocalCPUBackend, MemoryObj, RemoteConnector, WrappingConnector
from lmcache_connect.contract import BatchSlots, CallerMemory, Descriptions, FactSlots, Flags, Slots, copy_out
from lmcache_connect.errors import ConnectorContractError, CorruptRecordError, InvalidArgumentError
from lmcache_connect.keys import key_strings
from lmcache_connect.memory import Filling, HotCache, release_all

from .changes import Changes
from .fetches import Fetches
from .known_expiries import KnownExpiries

_PIECE: Final = 1 << 20
"""Bytes that are copied before the event loop may do other work."""


class HotConnector(WrappingConnector):
    """Gets ask the cache first, and fill it. Puts, removals and clearings write through, and invalidate it.

    * What the store gives lies in the cache's memory already: a get copies nothing. Everybody who gets a chunk gets a
      read-only object of his own (`SharedMemoryObj`).
    * A put is copied into the cache after the store has acknowledged it. Before that, and after a failure, the cache
      holds nothing under the key.
    * What was read before a change of its key is not cached after it, and no later get joins such a fetch.
    * A get into memory of its caller copies what the cache has, and receives the rest from the store straight into that
      memory. It does not fill the cache, and neither does a put from such memory: its caller has the chunk already.
    * A chunk for which the cache has no room, because it is too large or everything in it is held, passes by.
    * Another process's put or removal is seen when the cached chunk is `hot_ttl` seconds old, at the latest.
    """

    def __init__(
        self, wrapped: RemoteConnector, memory: LocalCPUBackend, store: str, chunk_ttl: float | None = None
    ) -> None:
        """`wrapped` receives into `memory` (`LayeredMemory`), which is closed with this connector.

        `store` is the store's address, for messages. `chunk_ttl` is the number of seconds after which the store forgets
        a chunk; None: never, or that is not known.
        """
        super().__init__(wrapped)
        self.ends_when_cancelled = wrapped.ends_when_cancelled
        self.tells_what_came = wrapped.tells_what_came
        self._memory: Final = memory
        self._cache: Final = memory.hot_cache
        self._expiries = KnownExpiries(chunk_ttl, self._cache.clock)
        self._fetches = Fetches(self._cache, store, self._ask, self._keep)

    def own_hot_cache(self) -> HotCache:
        """The cache, for those who show, clear and count it."""
        return self._cache

    # ------------------------------------------------------------------------------------------------- reading

    async def exists(self, key: Key) -> bool:
        """Whether the cache or the store holds the key."""
        return self._cache.contains(key) or await self.wrapped.exists(key)

    async def batched_exists(self, keys: Sequence[Key]) -> Flags:
        """One answer per key, in order. The store is asked for what is not cached."""
        found = [self._cache.contains(key) for key in keys]
        missing = [index for index, there in enumerate(found) if not there]
        if missing:
            answers = await self.wrapped.batched_exists([keys[index] for index in missing])
            if len(answers) != len(missing):
                raise self._contract("batched_exists", f"{len(answers)} answers", f"{len(missing)}, one per key")
            for index, there in zip(missing, answers, strict=True):
                found[index] = bool(there)
        return found

    async def get(self, key: Key) -> MemoryObj | None:
        """A read-only object for the chunk, with one reference for the caller, or None."""
        cached = self._cache.get(key)
        if cached is not None:
            return cached
        return (await self._fetches.get((key,)))[0]

    async def batched_get(self, keys: Sequence[Key]) -> Slots:
        """One slot per key, in order. The store is asked for what is not cached. When it raises, nothing is held.

        Where there is no room for all chunks, the result is the prefix that fits, as `RemoteConnector` says.
        """
        slots = BatchSlots(len(keys))
        try:
            for index, key in enumerate(keys):
                slots.found[index] = self._cache.get(key)
            missing = [index for index, obj in enumerate(slots.found) if obj is None]
            if missing:
                await self._fetch(keys, missing, slots)
            slots.drop_unwanted()
            slots.count_unwanted()
        except BaseException:
            release_all(slots.found)
            raise
        return slots.found

    async def batched_get_into(
        self, keys: Sequence[Key], buffers: Sequence[Any], metadata: Descriptions = None
    ) -> Flags:
        """Copies what is cached, and has the store's connector receive the rest. Fills no cache."""
        with CallerMemory.of(keys, buffers, metadata, writable=True) as theirs:
            found = [await self._copied_out(theirs, index) for index in range(len(theirs.keys))]
            missing = [index for index, is_here in enumerate(found) if not is_here]
            if missing:
                rest = theirs.part(missing)
                answers = await self.wrapped.batched_get_into(rest.keys, rest.regions, rest.descriptions)
                if len(answers) != len(missing):
                    raise self._contract("batched_get_into", f"{len(answers)} answers", f"{len(missing)}, one per key")
                for index, has_come in zip(missing, answers, strict=True):
                    found[index] = has_come
            return found

    async def _copied_out(self, theirs: CallerMemory, index: int) -> bool:
        """Whether the cache has the chunk that the caller asks for. Its memory then holds it."""
        obj = self._cache.get(theirs.keys[index])
        if obj is None:
            return False
        with obj:
            if not theirs.accepts(index, obj.metadata):
                return False  # another writer may have replaced it: the store knows
            await copy_out(obj, theirs.regions[index])
            return True

    async def _fetch(self, keys: Sequence[Key], missing: Sequence[int], slots: BatchSlots) -> None:
        try:
            fetched = await self._fetches.get([keys[index] for index in missing])
        except ArenaExhaustedError as error:
            is_too_large = error.requested > error.capacity
            if len(missing) == 1 or not is_too_large:
                if not slots.no_room(missing[0], error):
                    await self.discard_corrupt(keys[missing[0]], CorruptRecordError("too_large", str(error)))
                return
        else:
            for index, obj in zip(missing, fetched, strict=True):
                slots.found[index] = obj
            return
        for index in missing:  # one of them is too large, whose fetch this call had joined
            await self._fetch(keys, [index], slots)

    async def _ask(self, keys: Sequence[Key]) -> Slots:
        """One slot per key, of what the store holds. Runs in a fetch's task."""
        if len(keys) == 1:
            try:
                found: Slots = [await self.wrapped.get(keys[0])]
            except CorruptRecordError as error:
                await self.wrapped.discard_corrupt(keys[0], error)  # once, and not once for each who waits
                return [None]
        else:
            found = await self.wrapped.batched_get(keys)
            if not isinstance(found, list) or len(found) != len(keys):
                # Which chunk belongs to which key is not known, so each key is asked for alone.
                release_all(found)
                found = await RemoteConnector.batched_get(self.wrapped, keys)
        for obj in found:
            if obj is not None and not (isinstance(obj, MemoryObj) and obj.is_valid()):
                release_all(found)
                raise self._contract("get", f"a {type(obj).__qualname__}", "a MemoryObj with a reference, or None")
        return found

    def _keep(self, filling: Filling, name: str, obj: MemoryObj | None) -> None:
        """Ends a fetch of one key: caches what it brought, unless that has passed the cache's memory by."""
        self._cache.fill(filling, obj if self._memory.owns(obj) else None, self._expiries.left(name))

    # ------------------------------------------------------------------------------------------------ changing

    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        """Stores the chunk, and caches a copy when the store has acknowledged it."""
        with self._changes((key,)) as change:
            await self.wrapped.put(key, memory_obj)
            change.stored([await self._copied(memory_obj)])

    async def batched_put(self, keys: Sequence[Key], memory_objs: Sequence[MemoryObj]) -> None:
        """`put` for every pair. When it raises, none of the keys is cached."""
        if len(keys) != len(memory_objs):
            raise InvalidArgumentError("memory_objs", f"{len(memory_objs)} objects for {len(keys)} keys")
        with self._changes(keys) as change:
            await self.wrapped.batched_put(keys, memory_objs)
            copies: Slots = []
            try:
                for obj in memory_objs:
                    copies.append(await self._copied(obj))
            except BaseException:
                release_all(copies)
                raise
            change.stored(copies)

    async def batched_put_from(
        self, keys: Sequence[Key], buffers: Sequence[Any], metadata: Descriptions = None
    ) -> Flags:
        """Stores chunks from memory of the caller. The cache holds none of the keys afterwards."""
        with (
            CallerMemory.of(keys, buffers, metadata, writable=False) as theirs,
            self._changes(theirs.keys) as change,
        ):
            stored = await self.wrapped.batched_put_from(theirs.keys, theirs.regions, theirs.descriptions)
            if all(stored):
                change.stored([None] * len(theirs.keys))
            return stored

    async def remove(self, key: Key) -> bool:
        """Removes the key from the cache and the store. Returns whether the store had it."""
        with self._changes((key,)):
            return await self.wrapped.remove(key)

    async def batched_remove(self, keys: Sequence[Key]) -> Flags:
        """Removes keys from the cache and the store. Returns for each whether it is gone from the store."""
        with self._changes(keys):
            return await self.wrapped.batched_remove(keys)

    async def describe(self, keys: Sequence[Key], *, records: bool = False) -> FactSlots:
        """What the store says, whatever is cached."""
        return await self.wrapped.describe(keys, records=records)

    async def expire(self, keys: Sequence[Key], ttls: Sequence[float]) -> Flags:
        """As the connector inside does it. The keys leave the cache."""
        with self._changes(keys):
            return await self.wrapped.expire(keys, ttls)

    async def discard_corrupt(self, key: Key, error: CorruptRecordError) -> None:
        """As the connector inside does it. The key leaves the cache."""
        with self._changes((key,)):
            await self.wrapped.discard_corrupt(key, error)

    def _changes(self, keys: Sequence[Key]) -> Changes:
        return Changes(self._cache, self._expiries, key_strings(keys))

    async def _copied(self, obj: MemoryObj) -> MemoryObj | None:
        """A copy of the chunk in the cache's memory, with one reference; None where there is no room now."""
        copy = self._memory.allocate_chunk(obj.metadata) if self._cache.enabled else None
        if copy is None:
            return None
        try:
            for start in range(0, obj.get_size(), _PIECE):
                if start:
                    await asyncio.sleep(0)
                _copy_piece(obj, copy, start)
        except BaseException:
            copy.ref_count_down()
            raise
        return copy

    # ------------------------------------------------------------------------------------------------- closing

    async def close(self) -> None:
        """Ends the fetches, closes the connector inside, and gives the cache's memory back."""
        try:
            await self._fetches.close()
            await self.wrapped.close()
        finally:
            self._memory.close()

    def _contract(self, operation: str, got: str, expected: str) -> ConnectorContractError:
        return ConnectorContractError(type(self.wrapped).__name__, operation, f"returned {got}", expected)


def _copy_piece(source: MemoryObj, target: MemoryObj, start: int) -> None:
    # A function of its own: a frame that awaits must hold no view of a chunk's memory.
    with source.byte_array as given, target.byte_array as kept:
        kept[start : start + _PIECE] = given[start : start + _PIECE]
