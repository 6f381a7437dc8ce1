"""Connectors that break the rules for one chunk, and what is checked after every rule."""

from __future__ import annotations

import asyncio
import math
import unicodedata
from collections.abc import Sequence
from typing import Final

from lmcache_connect import (
    CacheEngineKey,
    ChunkMetadata,
    Key,
    LayerCacheEngineKey,
    LocalCPUBackend,
    MemoryFormat,
    MemoryObj,
    key_string,
)
from lmcache_connect.contract import Hits
from lmcache_connect.testing import ConnectorConformance as Suite

from .broken_cases import Cases
from .sound_connector import SoundConnector

CASES: Final = Cases()
breaks = CASES.breaks

AFTER_EVERY_RULE: Final = Suite.test_exists_tells_whether_the_key_is_stored
"""A rule that is kept, for what is checked after each."""


# ---------------------------------------------------------------------------------------------- after every rule


@breaks(AFTER_EVERY_RULE, "balance is not zero: 4096 bytes")
class KeepsAStagingBuffer(SoundConnector):
    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        self.shelf.kept.append(await self.context.local_cpu_backend.allocate_async((10,), "uint8"))
        await super().put(key, memory_obj)


@breaks(Suite.test_batched_get_non_blocking_stops_at_the_first_hole, "only found by the garbage collector")
class ForgetsWhatLiesBehindTheHole(SoundConnector):
    async def batched_get_non_blocking(self, lookup_id: str, keys: Sequence[Key]) -> Hits:
        found = await self.batched_get(keys)
        return [obj for obj in found[: (*found, None).index(None)] if obj is not None]


@breaks(AFTER_EVERY_RULE, "left tasks running")
class LeavesATask(SoundConnector):
    async def exists(self, key: Key) -> bool:
        self.task = asyncio.create_task(asyncio.Event().wait())
        return await super().exists(key)


@breaks(AFTER_EVERY_RULE, r"close\(\) of an idle connector took")
@breaks(Suite.test_closing_under_load_answers_every_caller_and_ends, r"close\(\) under load took")
class ClosesSlowly(SoundConnector):
    async def close(self) -> None:
        await asyncio.sleep(0.35)


@breaks(Suite.test_closing_under_load_answers_every_caller_and_ends, r"another close\(\) was under way did not end")
class NeverCloses(SoundConnector):
    async def close(self) -> None:
        await asyncio.sleep(60)


# ----------------------------------------------------------------------------------------------------- one chunk


@breaks(Suite.test_get_gives_the_bytes_shapes_dtypes_and_format_that_put_stored, "bytes are not those")
class FlipsABit(SoundConnector):
    async def received(self, metadata: ChunkMetadata, payload: bytes) -> MemoryObj:
        return await super().received(metadata, payload[:-1] + bytes([payload[-1] ^ 1]))


@breaks(Suite.test_get_gives_the_bytes_shapes_dtypes_and_format_that_put_stored, "shapes .* came back as")
class FlattensEverything(SoundConnector):
    async def received(self, metadata: ChunkMetadata, payload: bytes) -> MemoryObj:
        return await super().received(ChunkMetadata.of((len(payload),), "uint8"), payload)


@breaks(Suite.test_get_of_a_missing_key_is_none, r"never stored gave <MemoryObj")
class InventsAChunk(SoundConnector):
    async def get(self, key: Key) -> MemoryObj | None:
        return await super().get(key) or await self.received(ChunkMetadata.of((4,), "uint8"), b"zero")


@breaks(Suite.test_get_of_a_missing_key_is_none, "raised KeyError")
class RaisesOnAMiss(SoundConnector):
    async def get(self, key: Key) -> MemoryObj | None:
        _ = self.shelf.records[key_string(key)]
        return await super().get(key)


@breaks(Suite.test_exists_tells_whether_the_key_is_stored, "before put")
class ClaimsEverything(SoundConnector):
    async def exists(self, key: Key) -> bool:
        return True


@breaks(Suite.test_exists_tells_whether_the_key_is_stored, "after put")
class AwaitsNothing(SoundConnector):
    async def exists(self, key: Key) -> bool:
        return False


@breaks(Suite.test_put_replaces_what_was_stored, "other bytes than were stored last")
class KeepsTheFirst(SoundConnector):
    async def store(self, name: str, record: bytes) -> None:
        self.shelf.records.setdefault(name, record)


@breaks(Suite.test_put_only_borrows_the_chunk, "and 3 are counted")
class KeepsAReference(SoundConnector):
    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        memory_obj.ref_count_up()
        self.shelf.kept.append(memory_obj)
        await super().put(key, memory_obj)


@breaks(Suite.test_put_only_borrows_the_chunk, "and 1 are counted")
@breaks(Suite.test_batched_put_only_borrows_the_chunks, r"\[1, 1, 1, 1, 1\] are counted")
class GivesBackTheCallersReference(SoundConnector):
    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        await super().put(key, memory_obj)
        memory_obj.ref_count_down()


@breaks(Suite.test_put_only_borrows_the_chunk, "changed the caller's bytes")
class ScribblesOnTheChunk(SoundConnector):
    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        await super().put(key, memory_obj)
        memory_obj.byte_array[:] = bytes(memory_obj.get_size())


@breaks(Suite.test_get_hands_over_exactly_one_reference, "with 2 references")
class HandsOverTwo(SoundConnector):
    async def received(self, metadata: ChunkMetadata, payload: bytes) -> MemoryObj:
        obj = await super().received(metadata, payload)
        obj.ref_count_up()
        return obj


@breaks(Suite.test_get_hands_over_exactly_one_reference, "not from the context's")
class HasItsOwnArena(SoundConnector):
    async def received(self, metadata: ChunkMetadata, payload: bytes) -> MemoryObj:
        obj = LocalCPUBackend(1 << 20).allocate(metadata.shapes, metadata.dtypes)
        assert obj is not None
        return obj


@breaks(Suite.test_what_is_stored_shares_no_memory_with_what_was_put_or_got, "after put")
class StoresTheVeryObject(SoundConnector):
    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        memory_obj.ref_count_up()
        self.shelf.kept.append(memory_obj)

    async def get(self, key: Key) -> MemoryObj | None:
        self.shelf.kept[-1].ref_count_up()
        return self.shelf.kept[-1]


@breaks(Suite.test_what_is_stored_shares_no_memory_with_what_was_put_or_got, r"from get\(\) changed the store")
class HandsOutOneObjectToAll(SoundConnector):
    async def get(self, key: Key) -> MemoryObj | None:
        if not self.shelf.kept and (obj := await super().get(key)) is not None:
            self.shelf.kept.append(obj)
        self.shelf.kept[0].ref_count_up()
        return self.shelf.kept[0]


@breaks(Suite.test_every_dtype_round_trips_by_name, "dtypes .*bool.* came back as")
class TakesBoolForBytes(SoundConnector):
    async def received(self, metadata: ChunkMetadata, payload: bytes) -> MemoryObj:
        dtypes = ["uint8" if dtype.name == "bool" else dtype for dtype in metadata.dtypes]
        return await super().received(ChunkMetadata.of(metadata.shapes, dtypes, metadata.fmt), payload)


@breaks(Suite.test_every_memory_format_round_trips, "the format UNDEFINED came back as KV_2LTD")
class GuessesTheFormat(SoundConnector):
    async def received(self, metadata: ChunkMetadata, payload: bytes) -> MemoryObj:
        guess = ChunkMetadata.of(metadata.shapes, list(metadata.dtypes), MemoryFormat.KV_2LTD)
        return await super().received(guess, payload)


@breaks(Suite.test_several_tensor_groups_round_trip, "shapes .* came back as")
class KeepsOneGroup(SoundConnector):
    async def received(self, metadata: ChunkMetadata, payload: bytes) -> MemoryObj:
        first = ChunkMetadata.of(metadata.shapes[0], metadata.dtypes[0], metadata.fmt)
        return await super().received(first, payload[: first.nbytes])


@breaks(Suite.test_a_partial_chunk_round_trips, "255.* came back as .*256")
class PadsToFullChunks(SoundConnector):
    async def received(self, metadata: ChunkMetadata, payload: bytes) -> MemoryObj:
        return await super().received(metadata.with_tokens(256), payload)


@breaks(Suite.test_a_chunk_of_any_size_round_trips, "with 1 bytes and came back with 4096")
class RoundsUpToPages(SoundConnector):
    async def received(self, metadata: ChunkMetadata, payload: bytes) -> MemoryObj:
        return await super().received(ChunkMetadata.of((-(-metadata.nbytes // 4096) * 4096,), "uint8"), payload)


@breaks(Suite.test_a_chunk_of_any_size_round_trips, "with 1048577 bytes and came back with 1048576")
class CutsAtOneMebibyte(SoundConnector):
    async def received(self, metadata: ChunkMetadata, payload: bytes) -> MemoryObj:
        return await super().received(ChunkMetadata.of((min(metadata.nbytes, 1 << 20),), "uint8"), payload[: 1 << 20])


# ---------------------------------------------------------------------------------------------------------- keys


@breaks(Suite.test_a_key_and_its_string_name_the_same_chunk, "was stored and is a miss")
class NamesByRepr(SoundConnector):
    def name(self, key: Key) -> str:
        return key if isinstance(key, str) else repr(key)


@breaks(Suite.test_keys_that_differ_in_one_part_are_distinct, "other bytes")
class DropsTheTag(SoundConnector):
    def name(self, key: Key) -> str:
        return key_string(key).partition("@tenant%")[0]


@breaks(Suite.test_keys_that_differ_in_one_part_are_distinct, "other bytes")
class DropsTheLayer(SoundConnector):
    def name(self, key: Key) -> str:
        if isinstance(key, LayerCacheEngineKey):
            return key.with_new_worker_id(key.worker_id).get_first_layer().to_string()
        return key_string(key)


@breaks(Suite.test_keys_that_differ_in_one_part_are_distinct, "other bytes")
class DropsTheWorker(SoundConnector):
    def name(self, key: Key) -> str:
        return key_string(key.with_new_worker_id(0) if isinstance(key, CacheEngineKey) else key)


@breaks(Suite.test_any_character_may_stand_in_a_key, "other bytes")
class FoldsCase(SoundConnector):
    def name(self, key: Key) -> str:
        return key_string(key).lower()


@breaks(Suite.test_any_character_may_stand_in_a_key, "other bytes")
class Normalises(SoundConnector):
    def name(self, key: Key) -> str:
        return unicodedata.normalize("NFC", key_string(key))


@breaks(Suite.test_any_character_may_stand_in_a_key, "other bytes")
class DecodesPercent(SoundConnector):
    def name(self, key: Key) -> str:
        return key_string(key).replace("%41", "A")


@breaks(Suite.test_any_character_may_stand_in_a_key, "other bytes")
class StripsBlanks(SoundConnector):
    def name(self, key: Key) -> str:
        return key_string(key).strip()


@breaks(Suite.test_a_long_key_is_kept_whole, "other bytes")
class CutsLongKeys(SoundConnector):
    def name(self, key: Key) -> str:
        return key_string(key)[:255]


# ------------------------------------------------------------------------------------------------------- size


@breaks(Suite.test_a_chunk_of_64_mebibytes_round_trips, "other bytes than were stored")
class ConfusesLargeChunks(SoundConnector):
    async def received(self, metadata: ChunkMetadata, payload: bytes) -> MemoryObj:
        obj = await super().received(metadata, payload)
        if len(payload) > 16 << 20:
            obj.byte_array[16 << 20 :] = bytes(len(payload) - (16 << 20))
        return obj


@breaks(Suite.test_a_chunk_of_64_mebibytes_round_trips, "a chunk of 22020099 bytes was put without an error")
class DropsLargeChunks(SoundConnector):
    async def store(self, name: str, record: bytes) -> None:
        if len(record) < 20_000_000:
            await super().store(name, record)


@breaks(Suite.test_a_chunk_of_some_mebibytes_round_trips, "other bytes than were stored")
class ReadsOneBufferful(SoundConnector):
    async def received(self, metadata: ChunkMetadata, payload: bytes) -> MemoryObj:
        return await super().received(metadata, payload[: 1 << 16].ljust(len(payload), b"\0"))


@breaks(Suite.test_as_many_dimensions_as_a_chunk_may_have_round_trip, "came back as")
class HasRoomForFourDimensions(SoundConnector):
    async def received(self, metadata: ChunkMetadata, payload: bytes) -> MemoryObj:
        (shape,) = metadata.shapes
        if len(shape) > 4:
            shape = (*shape[:3], metadata.nbytes // math.prod(shape[:3]) // 2)
        return await super().received(ChunkMetadata.of(shape, metadata.dtypes[0], metadata.fmt), payload)


@breaks(Suite.test_as_many_tensor_groups_as_a_chunk_may_have_round_trip, "came back as")
class HasOneDtypeForAllGroups(SoundConnector):
    async def received(self, metadata: ChunkMetadata, payload: bytes) -> MemoryObj:
        dtypes = metadata.dtypes[:1] * len(metadata.dtypes)
        obj = await super().received(ChunkMetadata.of(metadata.shapes, list(dtypes), metadata.fmt), b"")
        obj.byte_array[:] = payload.ljust(obj.get_size(), b"\0")[: obj.get_size()]
        return obj
