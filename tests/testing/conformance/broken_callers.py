"""Connectors that break the rules for many callers, cancelled callers, wrong input and the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from lmcache_connect import ChunkMetadata, ConnectorClosedError, ConnectorContext, Key, ManagedConnector, MemoryObj
from lmcache_connect.errors import InvalidKeyError, ReleasedObjectError
from lmcache_connect.record import encode_record
from lmcache_connect.testing import ConnectorConformance as Suite

from .broken_batches import FillsUpWithMisses
from .broken_cases import Cases
from .sound_connector import Shelf, SoundConnector

CASES: Final = Cases()
breaks = CASES.breaks


# -------------------------------------------------------------------------------------------------- many callers


@breaks(Suite.test_concurrent_puts_and_gets_of_different_keys_do_not_mix, "was stored and is a miss")
class SharesAScratchBuffer(SoundConnector):
    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        self.scratch = encode_record(self.name(key), memory_obj)
        await self.turn()
        await self.store(self.name(key), self.scratch)


@breaks(Suite.test_concurrent_puts_and_gets_of_different_keys_do_not_mix, "came back with")
class AnswersWhoeverAsks(SoundConnector):
    async def get(self, key: Key) -> MemoryObj | None:
        self.wanted = key
        await self.turn()
        return await super().get(self.wanted)


@breaks(Suite.test_concurrent_writers_of_one_key_leave_one_of_their_chunks_whole, "and it is a miss")
@breaks(Suite.test_a_reader_during_overwrites_sees_only_whole_chunks, "was a miss")
class WritesInHalves(SoundConnector):
    async def store(self, name: str, record: bytes) -> None:
        half = len(record) // 2
        for part in (slice(0, half), slice(half, None)):
            torn = bytearray(self.shelf.records.get(name, b""))
            torn[part] = record[part]
            self.shelf.records[name] = bytes(torn)
            await self.turn()


@breaks(Suite.test_concurrent_writers_of_one_key_leave_one_of_their_chunks_whole, "that none of the writers stored")
@breaks(Suite.test_a_reader_during_overwrites_sees_only_whole_chunks, "that no writer had stored")
class WritesInHalvesWithoutAChecksum(WritesInHalves):
    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        await self.store(self.name(key), bytes(memory_obj.byte_array))

    async def get(self, key: Key) -> MemoryObj | None:
        await self.turn()
        record = self.shelf.records[self.name(key)]
        return await self.received(ChunkMetadata.of((len(record),), "uint8"), record)


@breaks(Suite.test_a_reader_during_overwrites_sees_only_whole_chunks, "was a miss")
class RemovesBeforeItWrites(SoundConnector):
    async def store(self, name: str, record: bytes) -> None:
        self.shelf.records.pop(name, None)
        await self.turn()
        await super().store(name, record)


@breaks(
    Suite.test_every_put_that_was_acknowledged_under_load_is_there,
    "ended without an error, and .* not there",
)
class DropsWhatDoesNotFitItsQueue(SoundConnector):
    queued = 0

    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        if self.queued >= 100:
            return
        self.queued += 1
        try:
            await super().put(key, memory_obj)
        finally:
            self.queued -= 1


class SharesOneFetch(SoundConnector):
    """Gets of one key at once wait for one fetch, which the last of them releases."""

    def __init__(self, context: ConnectorContext, shelf: Shelf) -> None:
        super().__init__(context, shelf)
        self.fetches: dict[str, asyncio.Future[MemoryObj | None]] = {}

    async def get(self, key: Key) -> MemoryObj | None:
        fetch = self.fetches.get(self.name(key))
        if fetch is None:
            fetch = self.fetches[self.name(key)] = asyncio.ensure_future(super().get(key))
            fetch.add_done_callback(lambda _: self.fetches.pop(self.name(key)))
            return await fetch
        obj = await fetch
        if obj is not None:
            obj.ref_count_up()
        return obj


@breaks(Suite.test_gets_of_one_key_at_once_have_a_chunk_each, "8 of 8 gets at once share one chunk, with 1 references")
class SharesOneReferenceOfAFetch(SharesOneFetch):
    async def get(self, key: Key) -> MemoryObj | None:
        obj = await super().get(key)
        if obj is not None and obj.get_ref_count() > 1:
            obj.ref_count_down()
        return obj


@breaks(Suite.test_gets_of_one_key_at_once_have_a_chunk_each, "share memory that they may write into")
class SharesMutableMemory(SharesOneFetch):
    pass


@breaks(Suite.test_a_get_that_is_cancelled_disturbs_no_other_get_of_its_key, "another ended with it")
class EndsThemAllWithTheFirst(SharesOneFetch):
    pass


# -------------------------------------------------------------------------------------------------- cancellation


@breaks(Suite.test_a_get_that_is_cancelled_at_any_point_leaves_nothing_behind, "left 1 chunks that nobody received")
class ForgetsItsChunkWhenItIsCancelled(SoundConnector):
    """It allocates, and awaits a thread that fills the chunk."""

    async def received(self, metadata: ChunkMetadata, payload: bytes) -> MemoryObj:
        obj = await self.context.local_cpu_backend.allocate_async(metadata.shapes, metadata.dtypes, metadata.fmt)

        def fill() -> None:
            obj.byte_array[:] = payload

        await asyncio.to_thread(fill)
        return obj


@breaks(Suite.test_a_get_that_is_cancelled_as_it_gets_room_leaves_nothing_behind, "left 1 chunks that nobody received")
class AllocatesInATaskOfItsOwn(SoundConnector):
    async def received(self, metadata: ChunkMetadata, payload: bytes) -> MemoryObj:
        allocating = asyncio.ensure_future(
            self.context.local_cpu_backend.allocate_async(metadata.shapes, metadata.dtypes, metadata.fmt)
        )
        self.tasks = [*getattr(self, "tasks", []), allocating]
        obj = await asyncio.shield(allocating)
        obj.byte_array[:] = payload
        return obj


@breaks(Suite.test_a_get_that_is_cancelled_at_any_point_leaves_nothing_behind, "that nobody received")
class KeepsWhatACancelledGetReceived(SoundConnector):
    async def received(self, metadata: ChunkMetadata, payload: bytes) -> MemoryObj:
        obj = await super().received(metadata, payload)
        self.shelf.kept.append(obj)
        await self.turn()
        self.shelf.kept.remove(obj)
        return obj


@breaks(Suite.test_a_get_that_is_cancelled_at_any_point_leaves_nothing_behind, "answered that its key is not stored")
class TakesCancellationForAMiss(SoundConnector):
    async def get(self, key: Key) -> MemoryObj | None:
        try:
            return await super().get(key)
        except asyncio.CancelledError:
            return None


@breaks(Suite.test_a_get_that_is_cancelled_at_any_point_leaves_nothing_behind, r"get\(\) did not end within")
@breaks(Suite.test_a_put_that_is_cancelled_at_any_point_leaves_a_whole_chunk, r"put\(\) did not end within")
class IgnoresCancellation(SoundConnector):
    async def turn(self) -> None:
        try:
            await super().turn()
            await super().turn()
        except asyncio.CancelledError:
            await asyncio.sleep(60)


@breaks(Suite.test_a_put_that_is_cancelled_at_any_point_leaves_a_whole_chunk, "written after it had ended")
class SendsAfterItsEnd(SoundConnector):
    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        try:
            await super().put(key, memory_obj)
        except asyncio.CancelledError:
            self.send(self.name(key), memory_obj)
            raise

    def send(self, name: str, obj: MemoryObj, turns: int = 8) -> None:
        self.shelf.records[name] = encode_record(name, obj)
        if turns:
            self.context.loop.call_soon(self.send, name, obj, turns - 1)


@breaks(Suite.test_a_put_that_is_cancelled_at_any_point_leaves_a_whole_chunk, "took away what was stored before")
class RemovesOnCancellation(SoundConnector):
    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        try:
            await super().put(key, memory_obj)
        except asyncio.CancelledError:
            self.shelf.records.pop(self.name(key), None)
            raise


@breaks(Suite.test_a_put_that_is_cancelled_at_any_point_leaves_a_whole_chunk, "left 2 references")
class KeepsACancelledPut(SoundConnector):
    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        memory_obj.ref_count_up()
        self.shelf.kept.append(memory_obj)
        await super().put(key, memory_obj)
        self.shelf.kept.remove(memory_obj)
        memory_obj.ref_count_down()


# ------------------------------------------------------------------------------------------- the loop and others


@breaks(Suite.test_a_get_without_room_in_the_arena_waits_without_blocking_the_loop, "held the event loop for")
class SleepsForRoom(SoundConnector):
    async def received(self, metadata: ChunkMetadata, payload: bytes) -> MemoryObj:
        if self.context.local_cpu_backend.statistics().free < metadata.nbytes:
            time.sleep(0.15)  # noqa: ASYNC251 - what LMCache's allocate() does
        return await super().received(metadata, payload)


@breaks(Suite.test_a_get_without_room_in_the_arena_waits_without_blocking_the_loop, "gave None")
class TakesNoRoomForAMiss(FillsUpWithMisses):
    pass


@breaks(Suite.test_a_get_without_room_in_the_arena_waits_without_blocking_the_loop, "ValueError: no room")
class FailsForWantOfRoom(SoundConnector):
    async def received(self, metadata: ChunkMetadata, payload: bytes) -> MemoryObj:
        if self.context.local_cpu_backend.statistics().free < metadata.nbytes:
            await asyncio.sleep(0.12)
            raise ValueError("no room")
        return await super().received(metadata, payload)


@breaks(Suite.test_no_operation_blocks_the_event_loop, "using the connector held the event loop for 0.1")
class Blocks(SoundConnector):
    async def ping(self) -> int:
        time.sleep(0.12)  # noqa: ASYNC251 - a driver that is not asynchronous
        return 0


@breaks(Suite.test_threads_without_a_loop_use_it_through_sync, "a key, it, and a hole")
@breaks(Suite.test_a_synchronous_call_on_the_owning_loop_raises_at_once, "expected it to raise")
class AnswersFromMemory(ManagedConnector):
    def exists_sync(self, key: Key) -> bool:
        return True


@breaks(Suite.test_another_event_loop_may_use_it, "another loop than the connector's")
@breaks(Suite.test_a_closed_connector_raises_connector_closed, "was accepted, with the result a chunk")
class AsksDirectly(ManagedConnector):
    async def get(self, key: Key) -> MemoryObj | None:
        return await self.wrapped.get(key)


# --------------------------------------------------------------------------------------------- input and the end


@breaks(Suite.test_a_key_that_cannot_name_a_chunk_raises_invalid_key, "the key '' was accepted")
class TakesABadKeyForAMiss(ManagedConnector):
    async def get(self, key: Key) -> MemoryObj | None:
        with suppress(InvalidKeyError):
            return await super().get(key)
        return None


@breaks(Suite.test_putting_a_released_chunk_raises_released_object, "a released chunk was accepted")
class OverlooksAReleasedChunk(ManagedConnector):
    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        with suppress(ReleasedObjectError):
            await super().put(key, memory_obj)


@breaks(Suite.test_putting_a_chunk_of_another_backend_raises_foreign_object, "of somebody else was accepted")
class TakesAnybodysChunk(ManagedConnector):
    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        await self.wrapped.put(key, memory_obj)


@breaks(Suite.test_a_batch_of_unequal_lists_raises_invalid_argument, "two keys and one chunk was accepted")
class PairsAsFarAsItGoes(ManagedConnector):
    async def batched_put(self, keys: Sequence[Key], memory_objs: Sequence[MemoryObj]) -> None:
        await super().batched_put(keys[: len(memory_objs)], memory_objs)


@breaks(Suite.test_closing_twice_is_closing_once, "it is closed")
class ClosesOnce(SoundConnector):
    closed = False

    async def close(self) -> None:
        if self.closed:
            raise ConnectorClosedError("it")
        self.closed = True


@breaks(Suite.test_closing_under_load_answers_every_caller_and_ends, "at the close ended with")
class ForgetsItsCallers(ManagedConnector):
    async def close(self, grace: float | None = None) -> None:
        for task in asyncio.all_tasks():
            if "ManagedConnector.get" in repr(task.get_coro()):
                task.cancel()
        await super().close(grace)
