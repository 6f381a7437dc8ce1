"""Connectors that break the rules for the store as a whole."""

from __future__ import annotations

import asyncio
import fnmatch
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from lmcache_connect import (
    ChunkMetadata,
    ConnectorContext,
    CorruptRecordError,
    Key,
    ManagedConnector,
    MemoryObj,
    RemoteConnector,
)
from lmcache_connect.contract import Slots
from lmcache_connect.record import decode_record, encode_record
from lmcache_connect.testing import ConnectorConformance as Suite
from lmcache_connect.testing.subject import release

from .broken_cases import Cases
from .sound_connector import Shelf, SoundConnector

CASES: Final = Cases()
breaks = CASES.breaks


@breaks(Suite.test_remove_tells_whether_the_key_was_there_and_takes_it_away, "of a missing key must be False")
class AlwaysRemoves(SoundConnector):
    async def remove(self, key: Key) -> bool:
        await super().remove(key)
        return True


@breaks(Suite.test_remove_tells_whether_the_key_was_there_and_takes_it_away, "of a stored key must be True")
class RemovesInSilence(SoundConnector):
    async def remove(self, key: Key) -> bool:
        await super().remove(key)
        return False


@breaks(Suite.test_remove_tells_whether_the_key_was_there_and_takes_it_away, "a removed key still exists")
class RemovesNothing(SoundConnector):
    async def remove(self, key: Key) -> bool:
        return await self.exists(key)


@breaks(Suite.test_remove_tells_whether_the_key_was_there_and_takes_it_away, "does not support remove")
class CannotRemove(SoundConnector):
    remove = RemoteConnector.remove


@breaks(Suite.test_list_names_exactly_the_keys_that_are_stored, "more than once")
class ListsTwice(SoundConnector):
    async def list(self) -> list[str]:
        return await super().list() * 2


@breaks(Suite.test_list_names_exactly_the_keys_that_are_stored, r"list\(\) does not name")
class ListsNone(SoundConnector):
    async def list(self) -> Any:
        return None


@breaks(Suite.test_list_names_exactly_the_keys_that_are_stored, r"list\(\) does not name \['conformance-.*\*'")
class ListsWhatItEscaped(SoundConnector):
    async def list(self) -> list[str]:
        return [name.replace("*", "%2A") for name in await super().list()]


@breaks(Suite.test_list_names_exactly_the_keys_that_are_stored, r"after a remove\(\) names")
class ListsWhatItRemembers(SoundConnector):
    async def remove(self, key: Key) -> bool:
        self.gone = [self.name(key)]
        return await super().remove(key)

    async def list(self) -> list[str]:
        return await super().list() + getattr(self, "gone", [])


@breaks(Suite.test_scan_names_each_key_with_the_prefix_once, "which it should not")
class TakesThePrefixForAPattern(SoundConnector):
    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        for name in await self.list():
            if fnmatch.fnmatchcase(name, prefix + "*"):
                yield name


@breaks(Suite.test_scan_names_each_key_with_the_prefix_once, "does not name")
class EscapesHalfOfIt(SoundConnector):
    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        for name in await self.list():
            if name.startswith(prefix.replace("\\", "\\\\")):
                yield name


@breaks(Suite.test_scan_names_each_key_with_the_prefix_once, "more than once")
class DoesNotSeeRepetitions(ManagedConnector):  # an author's may repeat: a store's cursor does
    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        for _ in range(2):
            async for name in super().scan(prefix):
                yield name


@breaks(Suite.test_scan_without_a_prefix_names_every_key, "does not name")
class ScansOnePage(SoundConnector):
    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        for name in (await self.list())[:10]:
            yield name


@breaks(Suite.test_ping_answers_zero, "answered 1")
class PingsWithOne(SoundConnector):
    async def ping(self) -> int:
        return 1


@breaks(Suite.test_ping_answers_zero, r"support_ping\(\) must be True")
class CannotPing(SoundConnector):
    ping = RemoteConnector.ping


@breaks(Suite.test_a_chunk_is_there_until_its_time_to_live_has_passed, "outlives its")
class NeverForgets(SoundConnector):
    def __init__(self, context: ConnectorContext, shelf: Shelf) -> None:
        super().__init__(context, shelf)
        self.ttl = None


@breaks(Suite.test_a_chunk_is_there_until_its_time_to_live_has_passed, "before its time")
class TakesSecondsForMilliseconds(SoundConnector):
    def __init__(self, context: ConnectorContext, shelf: Shelf) -> None:
        super().__init__(context, shelf)
        self.ttl = self.ttl and self.ttl / 1000

    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        await super().put(key, memory_obj)
        await asyncio.sleep(0.001)


@breaks(Suite.test_chunks_outlive_their_connector_and_are_seen_by_others, "was stored and is a miss")
class KeepsItToItself(SoundConnector):
    def __init__(self, context: ConnectorContext, shelf: Shelf) -> None:
        super().__init__(context, Shelf())


@breaks(Suite.test_chunks_outlive_their_connector_and_are_seen_by_others, "was stored and is a miss")
class ClearsUpAtTheEnd(SoundConnector):
    async def close(self) -> None:
        self.shelf.records.clear()


@breaks(Suite.test_get_of_a_damaged_record_is_a_miss, "handed out a record with a flipped bit in byte 5")
@breaks(Suite.test_batched_get_of_a_damaged_record_is_a_miss_in_its_own_slot, "a record with a flipped bit in byte 5")
class ChecksTheMagicAlone(SoundConnector):
    async def get(self, key: Key) -> MemoryObj | None:
        record = self.shelf.records[self.name(key)]
        if not record.startswith(b"KVCF"):
            raise CorruptRecordError("magic", "it starts with something else")
        return await self.received(ChunkMetadata.of((4096,), "uint8"), record[68:4164])


@breaks(Suite.test_get_of_a_damaged_record_is_a_miss, "a flipped bit in byte 68")
class TrustsThePayload(SoundConnector):
    async def get(self, key: Key) -> MemoryObj | None:
        try:
            return await super().get(key)
        except CorruptRecordError as error:
            if error.reason != "checksum":
                raise
            return await self.received(ChunkMetadata.of((4096,), "uint8"), b"wrong")


@breaks(Suite.test_get_of_a_damaged_record_is_a_miss, "the bytes of another key's")
class IgnoresWhoseItIs(SoundConnector):
    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        await self.store(self.name(key), encode_record("any", memory_obj))

    async def get(self, key: Key) -> MemoryObj | None:
        metadata, payload = decode_record("any", self.shelf.records[self.name(key)])
        return await self.received(metadata, bytes(payload))


@breaks(Suite.test_what_may_be_somebody_elses_is_never_removed_by_a_get, "removed a record that is text")
@breaks(Suite.test_a_good_record_that_replaced_a_damaged_one_is_never_removed, "removed the good one put meanwhile")
class RemovesOnOneLook(SoundConnector):
    async def discard_corrupt(self, key: Key, error: CorruptRecordError) -> None:
        await super().discard_corrupt(key, error)
        await self.remove(key)


@breaks(Suite.test_what_may_be_somebody_elses_is_never_removed_by_a_get, "removed a record that is another key's")
class RemovesOthersRecords(SoundConnector):
    async def discard_corrupt(self, key: Key, error: CorruptRecordError) -> None:
        await super().discard_corrupt(key, error)
        if error.reason == "key":
            await self.remove(key)


@breaks(Suite.test_a_good_record_that_replaced_a_damaged_one_is_never_removed, "said True, and the record is not gone")
class SaysThatItRemoved(SoundConnector):
    async def remove_damaged(self, key: Key, error: CorruptRecordError) -> bool:
        try:
            decode_record(self.name(key), self.shelf.records[self.name(key)])
        except CorruptRecordError:
            return True
        return False


@breaks(Suite.test_a_good_record_that_replaced_a_damaged_one_is_never_removed, "that verifies must be False")
class RemovesWithoutASecondLook(SoundConnector):
    async def remove_damaged(self, key: Key, error: CorruptRecordError) -> bool:
        return await self.remove(key)


@breaks(Suite.test_get_of_a_damaged_record_is_a_miss, "not counted as corrupt")
@breaks(Suite.test_batched_get_of_a_damaged_record_is_a_miss_in_its_own_slot, "not counted as corrupt")
class HidesDamage(SoundConnector):
    async def get(self, key: Key) -> MemoryObj | None:
        try:
            return await super().get(key)
        except CorruptRecordError:
            return None


@breaks(Suite.test_batched_get_of_a_damaged_record_is_a_miss_in_its_own_slot, "does not verify")
class FailsTheWholeBatch(SoundConnector):
    async def batched_get(self, keys: Sequence[Key]) -> Slots:
        found: Slots = []
        try:
            for key in keys:
                found.append(await self.get(key))
        except BaseException:
            release(found)
            raise
        return found
