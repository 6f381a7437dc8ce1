"""Connectors that break the rules for damaged records, and for those of others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from lmcache_connect import ChunkMetadata, CorruptRecordError, Key, MemoryObj
from lmcache_connect.contract import Slots
from lmcache_connect.record import decode_record, encode_record
from lmcache_connect.testing import ConnectorConformance as Suite
from lmcache_connect.testing import payload
from lmcache_connect.testing.subject import release

from .broken_cases import Cases
from .sound_connector import SoundConnector

CASES: Final = Cases()
breaks = CASES.breaks


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


@breaks(Suite.test_what_may_be_somebody_elses_is_never_removed_by_a_get, "removed a record that is of a newer release")
class RemovesWhatItDoesNotKnow(SoundConnector):
    async def load(self, name: str) -> bytes | None:
        record = await super().load(name)
        if record is not None and record.startswith(b"KVCF") and record[4] > 2:
            del self.shelf.records[name]
            return None
        return record


@breaks(Suite.test_damage_anywhere_in_a_large_record_is_a_miss, "a flipped bit in byte 131073")
class VerifiesTheFirst64KiB(SoundConnector):
    async def get(self, key: Key) -> MemoryObj | None:
        try:
            return await super().get(key)
        except CorruptRecordError as error:
            record = self.shelf.records[self.name(key)]
            good = payload(key, len(record) - 76)
            if error.reason != "checksum" or record[68:][: 1 << 16] != good[: 1 << 16]:
                raise
            return await self.received(ChunkMetadata.of((len(good),), "uint8"), record[68:-8])


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
