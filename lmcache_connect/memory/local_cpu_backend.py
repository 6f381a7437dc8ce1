"""`LocalCPUBackend`: an arena that chunks are received into, a hot cache in it, and a line of waiters for its room."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Final

from ..errors import (
    AllocationTimeoutError,
    ArenaExhaustedError,
    BackendClosedError,
    ForeignObjectError,
    InvalidArgumentError,
)
from ..keys import Key
from ..metadata import CacheMetadata, ChunkMetadata
from ..process import this_process
from .allocator import GRANULE
from .arena import Arena
from .chunk_memory import ArenaStatistics, ChunkMemory
from .hot_cache import HotCache
from .memory_obj import MemoryObj
from .pinning import register_with_cuda, unregister_with_cuda
from .waiting_line import WaitingLine

_WHAT: Final = "the memory of chunks"


class LocalCPUBackend(ChunkMemory):
    """Memory for chunks: one arena of `max_bytes`, and a hot cache of chunks in it. Thread-safe.

    An allocation evicts cached chunks that nobody holds or pins before it fails. It never sleeps and never blocks an
    event loop. The methods of the hot cache have LMCache's names here.
    """

    def __init__(
        self,
        max_bytes: int,
        *,
        metadata: CacheMetadata | None = None,
        eviction: str = "LRU",
        prefault: bool = False,
        pin_memory: bool = False,
    ) -> None:
        """Maps `max_bytes` (rounded down to whole pages of 4096 bytes).

        `eviction` is LRU, LFU, FIFO or MRU. `prefault` touches every page now rather than on first receipt.
        `pin_memory` registers the arena with CUDA through torch, for fast copies to the GPU.

        Raises:
            InvalidArgumentError: `max_bytes` is below one page, or the policy is unknown.
            MissingExtraError: `pin_memory` without torch.
        """
        if not isinstance(max_bytes, int) or max_bytes < GRANULE:
            raise InvalidArgumentError("max_bytes", f"{max_bytes!r} is not a number of at least {GRANULE} bytes")
        self._process = this_process()
        self.metadata = metadata
        self._hot = HotCache(eviction)
        self._line = WaitingLine()
        self._closed = False
        self._refusals = 0
        self._lock = threading.Lock()  # of the two above
        self._arena = Arena(max_bytes, self._line.wake_first, prefault=prefault)
        self._pinned = pin_memory
        if pin_memory:
            register_with_cuda(self._arena.address, self._arena.capacity)

    @property
    def hot_cache(self) -> HotCache:
        """The cache of chunks in the arena."""
        return self._hot

    # ---------------------------------------------------------------------------------------------- allocation

    def allocate_chunk(self, metadata: ChunkMetadata, eviction: bool = True) -> MemoryObj | None:
        """Returns one object with one reference, or None where there is no room now. Its bytes are arbitrary.

        Never waits. `eviction=False` leaves the hot cache alone.

        Raises:
            BackendClosedError: after `close()`.
        """
        self._process.check(_WHAT)
        if self._closed:
            raise BackendClosedError
        nbytes = metadata.nbytes
        view = self._arena.allocate(nbytes)
        while view is None:
            if not eviction or nbytes > self._arena.capacity or not self._hot.evict_one():
                with self._lock:
                    self._refusals += 1
                return None
            view = self._arena.allocate(nbytes)
        return MemoryObj(view, metadata, self)

    async def allocate_chunk_async(self, metadata: ChunkMetadata, *, timeout: float | None = None) -> MemoryObj:
        """Returns one object with one reference, as soon as there is room. Callers are served in their order.

        Raises:
            AllocationTimeoutError: no room within `timeout` seconds (None: no limit). Nothing is held then.
            ArenaExhaustedError: the arena as a whole is too small, so that waiting could never help.
            BackendClosedError: after `close()`, also when that comes during the wait.
        """
        self._process.check(_WHAT)
        if metadata.nbytes > self._arena.capacity:
            raise ArenaExhaustedError(metadata.nbytes, self._arena.usage().free, self._arena.capacity)
        self._line.drop_stopped()
        if not self._line and (obj := self.allocate_chunk(metadata)) is not None:
            return obj
        started = time.monotonic()
        try:
            async with asyncio.timeout(timeout):
                return await self._line.wait(lambda: self.allocate_chunk(metadata))
        except TimeoutError:
            raise AllocationTimeoutError(
                metadata.nbytes, self._arena.usage().free, self._arena.capacity, time.monotonic() - started
            ) from None

    def object_released(self, obj: MemoryObj, leaked: bool) -> None:
        """Called by an object when it dies, possibly from the garbage collector."""
        self._arena.object_ended(leaked)

    def object_let_go(self, obj: MemoryObj) -> None:
        """Called by an object when a reference or a pin was released: if it is cached, it may be evicted now."""
        self._line.wake_first()

    def owns(self, obj: object) -> bool:
        """Whether `obj` is a memory object of this backend."""
        return isinstance(obj, MemoryObj) and obj.belongs_to(self)

    # ----------------------------------------------------------------------------------------------- hot cache

    @property
    def hot_cache_enabled(self) -> bool:
        """Whether the cache takes chunks. Switched off, it serves those it has until they are evicted or cleared."""
        return self._hot.enabled

    @hot_cache_enabled.setter
    def hot_cache_enabled(self, on: bool) -> None:
        self._hot.enabled = on

    def submit_put_task(self, key: Key, obj: MemoryObj) -> None:
        """Caches `obj`, with a reference of the cache's own. See `HotCache.put`.

        Raises:
            ForeignObjectError: `obj` is not of this backend.
            ReleasedObjectError: `obj` was released.
            BackendClosedError: after `close()`.
        """
        if not self.owns(obj):
            raise ForeignObjectError(_kind(obj), "a MemoryObj allocated by this LocalCPUBackend")
        self._hot.put(key, obj)

    def batched_submit_put_task(self, keys: Sequence[Key], objs: Sequence[MemoryObj]) -> None:
        """`submit_put_task` for each pair."""
        if len(keys) != len(objs):
            raise InvalidArgumentError("objs", f"{len(objs)} objects for {len(keys)} keys")
        for key, obj in zip(keys, objs, strict=True):
            self.submit_put_task(key, obj)

    def get_blocking(self, key: Key) -> MemoryObj | None:
        """Returns the cached chunk with a reference for the caller, or None. Never waits."""
        return self._hot.get(key)

    def contains(self, key: Key, pin: bool = False) -> bool:
        """Returns whether the chunk is cached. `pin` pins it in the same step."""
        return self._hot.contains(key, pin)

    def pin(self, key: Key) -> bool:
        """Keeps a cached chunk from eviction. Returns False where it is not cached."""
        return self._hot.contains(key, pin=True)

    def unpin(self, key: Key) -> bool:
        """Releases one pin. Returns False where the chunk is not cached or not pinned."""
        return self._hot.unpin(key)

    def remove(self, key: Key, force: bool = True) -> bool:
        """Drops a chunk from the cache. Returns whether it was dropped. See `HotCache.remove`."""
        return self._hot.remove(key, force)

    def clear(self, prefix: str = "") -> int:
        """Drops every cached chunk under `prefix` that nobody else holds or pins. Returns how many."""
        return self._hot.clear(prefix)

    def get_keys(self) -> list[str]:
        """The keys in the cache."""
        return self._hot.keys()

    # ------------------------------------------------------------------------------------------------ lifetime

    def statistics(self) -> ArenaStatistics:
        """What the arena and the cache hold now."""
        arena, cached = self._arena.usage(), self._hot.statistics()
        return ArenaStatistics(
            capacity=self._arena.capacity,
            reserved=self._arena.capacity - arena.free,
            free=arena.free,
            largest_free=arena.largest_free,
            blocks=arena.blocks,
            live_objects=arena.objects,
            cached_objects=cached.chunks,
            cached_bytes=cached.bytes,
            waiters=len(self._line),
            allocations=arena.allocations,
            refusals=self._refusals,
            evictions=cached.evictions,
            leaked_objects=arena.leaked,
        )

    def close(self) -> None:
        """Empties the cache and refuses further allocations. Idempotent; objects that are held stay readable.

        In a fork it does nothing else than refuse.
        """
        if self._process.is_forked():
            self._closed = True
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._hot.close()
        self._line.wake_first()  # those who wait for room learn that there will be none
        if self._pinned:
            unregister_with_cuda(self._arena.address)

    def __enter__(self) -> LocalCPUBackend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._process.is_forked():
            return "<LocalCPUBackend of the parent process>"
        now = self.statistics()
        return f"<LocalCPUBackend {now.reserved} of {now.capacity} bytes reserved, {now.live_objects} objects>"

    def __iter__(self) -> Iterator[str]:
        return iter(self.get_keys())


def _kind(obj: object) -> str:
    if isinstance(obj, MemoryObj):
        return "a MemoryObj of another backend" if obj.is_valid() else "a released MemoryObj"
    return f"a {type(obj).__module__}.{type(obj).__qualname__}"
