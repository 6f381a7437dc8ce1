"""Connectors that break the rules for batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from lmcache_connect import ChunkMetadata, Key, MemoryObj
from lmcache_connect.contract import Flags, Hits, Slots
from lmcache_connect.testing import ConnectorConformance as Suite

from .broken_cases import Cases
from .sound_connector import SoundConnector

CASES: Final = Cases()
breaks = CASES.breaks


@breaks(Suite.test_batched_get_has_one_slot_per_key, "has 3 slots; expected one per key")
class DropsHoles(SoundConnector):  # repaired
    async def batched_get(self, keys: Sequence[Key]) -> Slots:
        return [obj for obj in await super().batched_get(keys) if obj is not None]


@breaks(Suite.test_batched_get_has_one_slot_per_key, "slot 0 of .* is filled and its key is not")
class MovesHolesToTheEnd(SoundConnector):
    # The manager cannot see this one: there are as many slots as keys.
    async def batched_get(self, keys: Sequence[Key]) -> Slots:
        return sorted(await super().batched_get(keys), key=lambda obj: obj is None)


@breaks(Suite.test_batched_get_has_one_slot_per_key, "other bytes")
class SwapsSlots(SoundConnector):
    async def batched_get(self, keys: Sequence[Key]) -> Slots:
        found = await super().batched_get(keys)
        filled = [index for index, obj in enumerate(found) if obj is not None]
        for index, obj in zip(filled, [found[index] for index in reversed(filled)], strict=True):
            found[index] = obj
        return found


@breaks(Suite.test_batched_get_fills_every_slot_of_a_repeated_key, "3 slots share 1 references")
class SharesOneReference(SoundConnector):
    async def batched_get(self, keys: Sequence[Key]) -> Slots:
        unique = list(dict.fromkeys(keys))
        found = dict(zip(unique, await super().batched_get(unique), strict=True))
        return [found[key] for key in keys]


@breaks(Suite.test_batched_get_fills_every_slot_of_a_repeated_key, "has 3 slots")
class AnswersEachKeyOnce(SoundConnector):  # repaired
    async def batched_get(self, keys: Sequence[Key]) -> Slots:
        return await super().batched_get(list(dict.fromkeys(keys)))


@breaks(Suite.test_a_large_batch_keeps_its_order, "slot 0 of ManagedConnector's batch of 300")
class PutsTheSecondWindowFirst(SoundConnector):
    async def batched_get(self, keys: Sequence[Key]) -> Slots:
        found = await super().batched_get(keys)
        return found[64:] + found[:64]


@breaks(Suite.test_an_empty_batch_is_empty, r"an empty batch gave \[None\]")
class HasNoEmptyBatch(SoundConnector):  # repaired
    async def batched_get(self, keys: Sequence[Key]) -> Slots:
        return await super().batched_get(keys) or [None]


@breaks(Suite.test_batched_put_stores_every_pair, "was stored and is a miss")
class ForgetsTheLastOfABatch(SoundConnector):
    async def batched_put(self, keys: Sequence[Key], memory_objs: Sequence[MemoryObj]) -> None:
        await super().batched_put(keys[:-1], memory_objs[:-1])


@breaks(Suite.test_batched_put_stores_every_pair, "and came back with")
class PairsThemWrongly(SoundConnector):
    async def batched_put(self, keys: Sequence[Key], memory_objs: Sequence[MemoryObj]) -> None:
        await super().batched_put(keys, memory_objs[::-1])


@breaks(Suite.test_batched_exists_is_positional, r"gave \[True, True\] for")
class NamesHitsOnly(SoundConnector):
    async def batched_exists(self, keys: Sequence[Key]) -> Flags:
        return [flag for flag in await super().batched_exists(keys) if flag]


@breaks(Suite.test_batched_exists_is_positional, r"gave \[True, True, False\] for")
class SortsItsAnswers(SoundConnector):
    async def batched_exists(self, keys: Sequence[Key]) -> Flags:
        return sorted(await super().batched_exists(keys), reverse=True)


@breaks(Suite.test_batched_async_contains_counts_the_hit_prefix, "has 2 keys, not 3")
class CountsAllHits(SoundConnector):  # repaired: the manager counts by itself
    async def batched_async_contains(self, lookup_id: str, keys: Sequence[Key], pin: bool = False) -> int:
        return sum(await self.batched_exists(keys))


@breaks(Suite.test_batched_get_non_blocking_stops_at_the_first_hole, "has 3 slots; expected one per key")
class SkipsTheHole(SoundConnector):  # repaired: the manager cuts by itself
    async def batched_get_non_blocking(self, lookup_id: str, keys: Sequence[Key]) -> Hits:
        return [obj for obj in await self.batched_get(keys) if obj is not None]


@breaks(Suite.test_batched_get_non_blocking_stops_at_the_first_hole, "behind the first hole of .* were kept")
class KeepsWhatLiesBehindTheHole(SoundConnector):
    async def batched_get_non_blocking(self, lookup_id: str, keys: Sequence[Key]) -> Hits:
        found = await self.batched_get(keys)
        hits = (*found, None).index(None)
        self.shelf.kept += [obj for obj in found[hits:] if obj is not None]
        return [obj for obj in found[:hits] if obj is not None]


@breaks(Suite.test_a_batch_that_does_not_fit_the_arena_raises_and_holds_nothing, "holds 3 chunks")
@breaks(Suite.test_a_batch_that_is_cancelled_at_any_point_leaves_nothing_behind, "left . chunks")
class KeepsHalfABatch(SoundConnector):
    async def batched_get(self, keys: Sequence[Key]) -> Slots:
        found: Slots = []
        try:
            for key in keys:
                found.append(await self.get(key))
        except BaseException:
            self.shelf.kept += [obj for obj in found if obj is not None]
            raise
        return found


@breaks(Suite.test_a_batch_that_does_not_fit_the_arena_raises_and_holds_nothing, "with room for three")
class FillsUpWithMisses(SoundConnector):
    async def received(self, metadata: ChunkMetadata, payload: bytes) -> Any:
        obj = self.context.local_cpu_backend.allocate(metadata.shapes, metadata.dtypes, metadata.fmt)
        if obj is not None:
            obj.byte_array[:] = payload
        return obj
