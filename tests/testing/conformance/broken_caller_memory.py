"""Connectors that break the rules for memory of their callers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from lmcache_connect import ChunkMetadata, Key, ManagedConnector, Regions, memory_at
from lmcache_connect.contract import CallerMemory, Descriptions, Flags
from lmcache_connect.errors import CorruptRecordError, InvalidArgumentError
from lmcache_connect.record import decode_record, encode_views
from lmcache_connect.testing import ConnectorConformance as Suite

from .broken_cases import Cases
from .sound_connector import SoundConnector

CASES: Final = Cases()
breaks = CASES.breaks

_PIECE: Final = 1 << 17
_TRAILER: Final = 8


class DirectConnector(SoundConnector):
    """Keeps every rule, and moves bytes between the store and its callers' memory by itself, piece by piece."""

    async def batched_get_into(
        self, keys: Sequence[Key], buffers: Sequence[Any], metadata: Descriptions = None
    ) -> Flags:
        with CallerMemory.of(keys, buffers, metadata, writable=True) as theirs:
            return [await self.receive_into(theirs, index) for index in range(len(theirs.keys))]

    async def receive_into(self, theirs: CallerMemory, index: int) -> bool:
        key = theirs.keys[index]
        record = await self.load(self.name(key))
        if record is None:
            return False
        try:
            described, payload = decode_record(self.name(key), record)
        except CorruptRecordError as error:
            await self.discard_corrupt(key, error)
            return False
        if not self.accepts(theirs, index, described):
            return False
        await self.fill(theirs.regions[index], bytes(payload))
        return True

    def accepts(self, theirs: CallerMemory, index: int, described: ChunkMetadata) -> bool:
        return theirs.accepts(index, described)

    async def fill(self, regions: Regions, payload: bytes) -> None:
        for start in range(0, len(payload), _PIECE):
            regions.write(start, payload[start : start + _PIECE])
            await self.turn()

    async def batched_put_from(
        self, keys: Sequence[Key], buffers: Sequence[Any], metadata: Descriptions = None
    ) -> Flags:
        with CallerMemory.of(keys, buffers, metadata, writable=False) as theirs:
            return [await self.send_from(theirs, index) for index in range(len(theirs.keys))]

    async def send_from(self, theirs: CallerMemory, index: int) -> bool:
        name = self.name(theirs.keys[index])
        record = encode_views(name, theirs.stored_as(index), self.sent(theirs.regions[index]))
        await self.turn()
        await self.store(name, record)
        return True

    def sent(self, regions: Regions) -> list[memoryview]:
        return regions.views


# ------------------------------------------------------------------------------------------------------ contents


@breaks(Suite.test_get_into_fills_exactly_the_regions_of_its_caller, "hold other bytes than were stored")
class FillsTheFirstRegion(DirectConnector):
    async def fill(self, regions: Regions, payload: bytes) -> None:
        first = regions.views[0]
        first[:] = payload[: len(first)]


@breaks(Suite.test_get_into_fills_exactly_the_regions_of_its_caller, "was written beside its caller's regions")
class WritesOneByteTooMany(DirectConnector):
    async def fill(self, regions: Regions, payload: bytes) -> None:
        await super().fill(regions, payload)
        _, end = regions.spans()[0]
        memory_at(end, 1)[:] = b"!"


@breaks(Suite.test_get_into_fills_exactly_the_regions_of_its_caller, "gave 1, not True")
class AnswersWithANumber(DirectConnector):
    async def receive_into(self, theirs: CallerMemory, index: int) -> Any:
        return int(await super().receive_into(theirs, index))


@breaks(Suite.test_put_from_stores_the_regions_of_its_caller_one_after_the_other, "came back with other bytes")
class SendsItsRegionsBackwards(DirectConnector):
    def sent(self, regions: Regions) -> list[memoryview]:
        return regions.views[::-1]


@breaks(Suite.test_put_from_stores_the_regions_of_its_caller_one_after_the_other, "changed its caller's memory")
class ClearsWhatItHasSent(DirectConnector):
    async def send_from(self, theirs: CallerMemory, index: int) -> bool:
        is_stored = await super().send_from(theirs, index)
        theirs.regions[index].write(0, bytes(theirs.regions[index].nbytes))
        return is_stored


@breaks(Suite.test_batched_get_into_answers_for_each_key_in_its_place, r"gave \[True, True, True, False\]; expected")
class SortsItsFlags(DirectConnector):
    async def batched_get_into(self, *arguments: Any) -> Flags:
        return sorted(await super().batched_get_into(*arguments), reverse=True)


@breaks(Suite.test_batched_get_into_answers_for_each_key_in_its_place, "hold other bytes than were stored")
class MixesItsBuffersUp(DirectConnector):
    async def batched_get_into(
        self, keys: Sequence[Key], buffers: Sequence[Any], metadata: Descriptions = None
    ) -> Flags:
        return await super().batched_get_into(keys, buffers[::-1], metadata)


@breaks(Suite.test_batched_put_from_stores_every_pair_of_any_size, "was stored and is a miss")
class DropsTheLastOfABatch(DirectConnector):
    async def send_from(self, theirs: CallerMemory, index: int) -> bool:
        return 0 < index == len(theirs.keys) - 1 or await super().send_from(theirs, index)


@breaks(Suite.test_batched_put_from_stores_every_pair_of_any_size, "gave a NoneType; expected a list")
class SaysNothingOfWhatItHasStored(DirectConnector):
    async def batched_put_from(self, *arguments: Any) -> Any:
        await super().batched_put_from(*arguments)


@breaks(Suite.test_a_batch_without_keys_gives_no_answers, r"gave \[False\]; expected \[\]")
class HasNoBatchWithoutKeys(DirectConnector):
    async def batched_get_into(self, *arguments: Any) -> Flags:
        return await super().batched_get_into(*arguments) or [False]


@breaks(Suite.test_get_into_of_another_length_is_false, r"asked for with 1, .* gave \[True, True\]")
class FillsWhatFits(DirectConnector):
    def accepts(self, theirs: CallerMemory, index: int, described: ChunkMetadata) -> bool:
        return True

    async def fill(self, regions: Regions, payload: bytes) -> None:
        await super().fill(regions, payload[: regions.nbytes])


@breaks(Suite.test_get_into_gives_only_what_its_metadata_describes, "gave True for a chunk of another dtype")
class ComparesLengthsOnly(DirectConnector):
    def accepts(self, theirs: CallerMemory, index: int, described: ChunkMetadata) -> bool:
        return described.nbytes == theirs.regions[index].nbytes


@breaks(Suite.test_get_into_gives_only_what_its_metadata_describes, "has stored ChunkMetadata.*uint8")
class StoresPlainBytes(DirectConnector):
    async def batched_put_from(
        self, keys: Sequence[Key], buffers: Sequence[Any], metadata: Descriptions = None
    ) -> Flags:
        return await super().batched_put_from(keys, buffers)


@breaks(Suite.test_get_into_of_a_damaged_record_is_false_in_its_own_place, "gave True for a record with a flipped bit")
class VerifiesNothing(DirectConnector):
    async def receive_into(self, theirs: CallerMemory, index: int) -> bool:
        record = await self.load(self.name(theirs.keys[index]))
        nbytes = theirs.regions[index].nbytes
        if record is None or len(record) < nbytes + _TRAILER:
            return False
        await self.fill(theirs.regions[index], record[len(record) - _TRAILER - nbytes : -_TRAILER])
        return True


@breaks(Suite.test_get_into_of_a_damaged_record_is_false_in_its_own_place, "was not counted as corrupt")
class TellsNobodyOfDamage(DirectConnector):
    async def discard_corrupt(self, key: Key, error: CorruptRecordError) -> None:
        pass


@breaks(Suite.test_get_into_of_a_damaged_record_is_false_in_its_own_place, "the stored record does not verify|corrupt")
class FailsTheBatchForOneRecord(DirectConnector):
    async def discard_corrupt(self, key: Key, error: CorruptRecordError) -> None:
        raise error


@breaks(Suite.test_a_chunk_of_64_mebibytes_goes_through_memory_of_its_caller, "hold other bytes than were stored")
class CountsIn32Mebibytes(DirectConnector):
    async def fill(self, regions: Regions, payload: bytes) -> None:
        await super().fill(regions, payload[: 32 << 20])


@breaks(Suite.test_memory_that_cannot_be_used_is_refused_by_name, r"memory read-only gave \[False\]; expected Invalid")
class TakesAMistakeForAMiss(DirectConnector):
    async def batched_get_into(
        self, keys: Sequence[Key], buffers: Sequence[Any], metadata: Descriptions = None
    ) -> Flags:
        with suppress(InvalidArgumentError):
            return await super().batched_get_into(keys, buffers, metadata)
        return [False] * len(keys)


@breaks(Suite.test_memory_that_cannot_be_used_is_refused_by_name, r"put_from\(\) of .* not contiguous gave \[False\]")
class TakesAMistakeForAFailedPut(DirectConnector):
    async def batched_put_from(
        self, keys: Sequence[Key], buffers: Sequence[Any], metadata: Descriptions = None
    ) -> Flags:
        with suppress(InvalidArgumentError):
            return await super().batched_put_from(keys, buffers, metadata)
        return [False] * len(keys)


# An author cannot break these: the manager's object gives the guarantee.


@breaks(Suite.test_memory_that_cannot_be_used_is_refused_by_name, "that two keys share gave")
class ReceivesTwoChunksIntoOnePlace(ManagedConnector):
    async def batched_get_into(
        self, keys: Sequence[Key], buffers: Sequence[Any], metadata: Descriptions = None
    ) -> Flags:
        return await self.wrapped.batched_get_into(keys, buffers, metadata)


@breaks(Suite.test_memory_of_a_thread_and_of_another_loop_is_filled_and_read, "another loop than the connector's")
class RunsOnItsCallersLoop(ManagedConnector):
    async def get_into(self, key: Key, buffer: Any, metadata: ChunkMetadata | None = None) -> bool:
        return await self.wrapped.get_into(key, buffer, metadata)


# ------------------------------------------------------------------------------------------------ after the end


@breaks(
    Suite.test_a_get_into_that_is_cancelled_at_any_point_writes_nothing_afterwards,
    "wrote into its caller's memory after it had ended",
)
class WritesWhatCameLate(DirectConnector):
    async def fill(self, regions: Regions, payload: bytes) -> None:
        view = regions.views[-1]
        try:
            await super().fill(regions, payload)
        except asyncio.CancelledError:
            self.late = asyncio.ensure_future(self.write_late(view, payload[-len(view) :]))
            raise

    async def write_late(self, view: memoryview, data: bytes) -> None:
        for _ in range(4):  # some of which pass before its caller knows
            await self.turn()
        view[:] = data


@breaks(Suite.test_a_get_into_that_is_cancelled_at_any_point_writes_nothing_afterwards, "key is not stored")
class TakesACancellationForAMiss(DirectConnector):
    async def receive_into(self, theirs: CallerMemory, index: int) -> bool:
        try:
            return await super().receive_into(theirs, index)
        except asyncio.CancelledError:
            return False


@breaks(
    Suite.test_a_batched_get_into_that_is_cancelled_at_any_point_writes_nothing_afterwards,
    "wrote into its caller's memory after it had ended",
)
class FinishesInTheBackground(DirectConnector):
    async def fill(self, regions: Regions, payload: bytes) -> None:
        views = regions.views

        async def finish() -> None:
            position = 0
            for view in views:
                await self.turn()
                view[:] = payload[position : position + len(view)]
                position += len(view)

        await asyncio.shield(asyncio.ensure_future(finish()))


@breaks(Suite.test_a_put_from_that_has_returned_reads_nothing_any_more, "stored bytes that were written afterwards")
class ReadsWhenItHasTime(DirectConnector):
    async def send_from(self, theirs: CallerMemory, index: int) -> bool:
        name, metadata, views = self.name(theirs.keys[index]), theirs.stored_as(index), theirs.regions[index].views

        def store() -> None:
            self.shelf.records[name] = encode_views(name, metadata, views)

        await self.turn()
        asyncio.get_running_loop().call_soon(store)
        return True


@breaks(
    Suite.test_a_put_from_that_is_cancelled_at_any_point_leaves_a_whole_chunk,
    "stored bytes that were written after it had ended",
)
class SendsInTheBackground(DirectConnector):
    async def send_from(self, theirs: CallerMemory, index: int) -> bool:
        name, metadata, views = self.name(theirs.keys[index]), theirs.stored_as(index), theirs.regions[index].views

        async def send() -> None:
            for _ in range(4):  # some of which pass before its caller knows
                await self.turn()
            await self.store(name, encode_views(name, metadata, views))

        await asyncio.shield(asyncio.ensure_future(send()))
        return True


@breaks(Suite.test_a_store_that_fails_gives_no_true_for_memory_of_a_caller, r"get_into\(\) answered False")
class TakesAFailureForAMiss(DirectConnector):
    async def receive_into(self, theirs: CallerMemory, index: int) -> bool:
        with suppress(OSError):
            return await super().receive_into(theirs, index)
        return False


@breaks(Suite.test_a_store_that_fails_gives_no_true_for_memory_of_a_caller, r"put_from\(\) answered True")
class SaysTrueOfWhatFailed(DirectConnector):
    async def send_from(self, theirs: CallerMemory, index: int) -> bool:
        with suppress(OSError):
            await super().send_from(theirs, index)
        return True
