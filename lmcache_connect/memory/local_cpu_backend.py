"""`LocalCPUBackend`: an arena that chunks are received into, a hot cache in it, and a line of waiters for its room."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Final

from ..checkpoint import checkpointed
from ..errors import (
    AllocationTimeoutError,
    ArenaExhaustedError,
    BackendClosedError,
    InvalidArgumentError,
)
from ..metadata import CacheMetadata, ChunkMetadata
from ..process import this_process
from .allocator import GRANULE
from .arena import Arena
from .chunk_memory import ArenaStatistics, ChunkMemory
from .hot_cache import HotCache
from .hot_cache_names import HotCacheNames
from .memory_obj import MemoryObj
from .pinning import register_with_cuda, unregister_with_cuda
from .releasing import release_all
from .waiting_line import WaitingLine

_WHAT: Final = "the memory of chunks"

WARM_AHEAD: Final = 256 << 20
"""Bytes that a thread keeps warm ahead of those in use, where nothing else is said."""


class LocalCPUBackend(HotCacheNames, ChunkMemory):
    """Memory for chunks: one arena of `max_bytes`, and a hot cache of chunks in it. Thread-safe.

    An allocation evicts cached chunks that nobody holds or pins before it fails. It never sleeps and never blocks an
    event loop. `HotCacheNames` has the methods of the hot cache.
    """

    def __init__(
        self,
        max_bytes: int,
        *,
        metadata: CacheMetadata | None = None,
        eviction: str = "LRU",
        prefault: bool = False,
        warm_ahead: int = WARM_AHEAD,
        pin_memory: bool = False,
        hot_ttl: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Maps `max_bytes` (rounded down to whole pages of 4096 bytes).

        `eviction` is LRU, LFU, FIFO or MRU. `prefault` touches every page now rather than on first receipt.
        Otherwise a thread keeps `warm_ahead` bytes touched ahead of those in use: 0 for none, `max_bytes` for all.
        `pin_memory` registers the arena with CUDA through torch, for fast copies to the GPU. `hot_ttl` is the number of
        seconds for which a cached chunk is served at most; None: no limit. `clock` tells the cache's time, in seconds.

        Raises:
            InvalidArgumentError: `max_bytes` is below one page, `warm_ahead` is below 0, or the policy is unknown.
            MissingExtraError: `pin_memory` without torch.
        """
        if not isinstance(max_bytes, int) or max_bytes < GRANULE:
            raise InvalidArgumentError("max_bytes", f"{max_bytes!r} is not a number of at least {GRANULE} bytes")
        if not isinstance(warm_ahead, int) or warm_ahead < 0:
            raise InvalidArgumentError("warm_ahead", f"{warm_ahead!r} is not a number of bytes, or 0 for none")
        self._process = this_process()
        self.metadata = metadata
        self._hot = HotCache(eviction, ttl=hot_ttl, clock=clock)
        self._line = WaitingLine()
        self._closed = False
        self._refusals = 0
        self._lock = threading.Lock()  # of the two above
        self._arena = Arena(max_bytes, self._line.wake_first, prefault=prefault, warm_ahead=warm_ahead)
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
            if not eviction or nbytes > self._arena.capacity or not self._hot.evict_one(self):
                with self._lock:
                    self._refusals += 1
                return None
            view = self._arena.allocate(nbytes)
        return MemoryObj(view, metadata, self)

    @checkpointed(release_all)
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
                return await self._line.wait(lambda: self.allocate_chunk(metadata), metadata.nbytes)
        except TimeoutError:
            raise AllocationTimeoutError(
                metadata.nbytes, self._arena.usage().free, self._arena.capacity, time.monotonic() - started
            ) from None

    def may_pass(self, nbytes: int) -> bool:
        """Returns whether a get may take `nbytes` now, although others may be waiting for room. See `WaitingLine`."""
        return self._line.may_pass(nbytes)

    def object_released(self, obj: MemoryObj, leaked: bool) -> None:
        """Called by an object when it dies, possibly from the garbage collector."""
        self._arena.object_ended(leaked)

    def object_let_go(self, obj: MemoryObj) -> None:
        """Called by an object when a reference or a pin was released: if it is cached, it may be evicted now."""
        self._hot.let_go(obj)
        self._line.wake_first()

    def owns(self, obj: object) -> bool:
        """Whether `obj` is a memory object of this backend."""
        return isinstance(obj, MemoryObj) and obj.belongs_to(self)

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
            warm=arena.warm,
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
        self._arena.stop_warming()
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
