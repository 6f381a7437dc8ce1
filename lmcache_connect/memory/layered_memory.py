"""`LayeredMemory`: one memory in front of another one."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Final

from ..errors import ArenaExhaustedError
from ..keys import Key
from ..metadata import ChunkMetadata
from .chunk_memory import ArenaStatistics, ChunkMemory
from .hot_cache import HotCache
from .hot_cache_names import HotCacheNames
from .local_cpu_backend import LocalCPUBackend
from .memory_obj import MemoryObj


class LayeredMemory(HotCacheNames, ChunkMemory):
    """Allocates from `front`, whose cached chunks make room, and where it has none, from `back`.

    A connector that receives into it has its chunks where a hot cache keeps them, without a copy. It waits for room
    only when neither memory has any. Both are borrowed: `close()` closes neither.
    """

    def __init__(self, front: LocalCPUBackend, back: ChunkMemory) -> None:
        self.metadata = back.metadata
        self._front: Final = front
        self._back: Final = back

    @property
    def hot_cache(self) -> HotCache:
        """The cache of chunks in `front`."""
        return self._front.hot_cache

    def submit_put_task(self, key: Key, obj: MemoryObj) -> None:
        """Caches `obj` as `LocalCPUBackend` does. One that lies in `back` is not cached: it would take room there."""
        if self._back.owns(obj):
            self.hot_cache.remove(key)
        else:
            super().submit_put_task(key, obj)

    def allocate_chunk(self, metadata: ChunkMetadata, eviction: bool = True) -> MemoryObj | None:
        """Returns one object with one reference, or None where there is no room now.

        Never waits. `eviction=False` leaves the cached chunks of `back` in place; those of `front` are there to go.

        Raises:
            BackendClosedError: one of the memories was closed.
        """
        return self._front.allocate_chunk(metadata) or self._back.allocate_chunk(metadata, eviction)

    async def allocate_chunk_async(self, metadata: ChunkMetadata, *, timeout: float | None = None) -> MemoryObj:
        """Returns one object with one reference, as soon as one of the memories has room.

        Raises:
            AllocationTimeoutError: no room within `timeout` seconds (None: no limit). Nothing is held then.
            ArenaExhaustedError: each memory as a whole is too small.
            BackendClosedError: one of the memories was closed, also when that comes during the wait.
        """
        if (obj := self._front.allocate_chunk(metadata)) is not None:
            return obj
        if metadata.nbytes > self._front.statistics().capacity:
            return await self._back.allocate_chunk_async(metadata, timeout=timeout)
        return await self._first_of_both(metadata, timeout)

    async def _first_of_both(self, metadata: ChunkMetadata, timeout: float | None) -> MemoryObj:
        ends = None if timeout is None else time.monotonic() + timeout
        waits = [
            asyncio.ensure_future(memory.allocate_chunk_async(metadata, timeout=timeout))
            for memory in (self._back, self._front)
        ]
        taken: MemoryObj | None = None
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            back, front = waits
            if back.done() and isinstance(back.exception(), ArenaExhaustedError) and not front.done():
                left = None if ends is None else max(0.0, ends - time.monotonic())
                await asyncio.wait((front,), timeout=left)  # only this one can ever have room
            first = next((wait for wait in waits if wait.done() and wait.exception() is None), None)
            taken = (first or next(wait for wait in waits if wait.done())).result()
            return taken
        finally:
            for wait in waits:
                wait.cancel()
                wait.add_done_callback(partial(_release_unless, taken))

    def may_pass(self, nbytes: int) -> bool:
        """Returns whether a get may take `nbytes` now, although others may be waiting for room in `back`."""
        return self._back.may_pass(nbytes)

    def chunk_limit(self) -> int:
        """The bytes of the largest chunk that one of the two can ever have room for."""
        return max(self._front.chunk_limit(), self._back.chunk_limit())

    def owns(self, obj: object) -> bool:
        """Whether `obj` is a memory object of one of the two."""
        return self._front.owns(obj) or self._back.owns(obj)

    def statistics(self) -> ArenaStatistics:
        """The sums of both. Cached chunks of `front` that would make room count as free."""
        front, back = self._front.statistics(), self._back.statistics()
        evictable = self._front.hot_cache.evictable_bytes()
        total = ArenaStatistics(*(mine + other for mine, other in zip(front, back, strict=True)))
        return total._replace(
            reserved=total.reserved - evictable,
            free=total.free + evictable,
            largest_free=max(front.largest_free, back.largest_free),
        )

    def close(self) -> None:
        """Does nothing: both memories are borrowed."""


def _release_unless(taken: MemoryObj | None, wait: asyncio.Future[MemoryObj]) -> None:
    if not wait.cancelled() and wait.exception() is None and wait.result() is not taken:
        wait.result().ref_count_down()
