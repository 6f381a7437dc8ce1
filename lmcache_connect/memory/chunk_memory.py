"""`ChunkMemory`: what connectors receive chunks into, and send them from."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from ..checkpoint import checkpointed
from ..errors import InvalidArgumentError, SyncCallOnLoopError
from ..lease import Lease
from ..metadata import CacheMetadata, ChunkMetadata, MemoryFormat
from .allocator import BlockAllocator
from .hot_cache import HotCache
from .memory_obj import MemoryObj
from .releasing import release_all


class ArenaStatistics(NamedTuple):
    """What a memory and its hot cache hold. Sizes are bytes, the rest are counts.

    `reserved` is the balance: it is 0 when every object was released and every view of one is gone.
    """

    capacity: int
    reserved: int
    free: int = 0
    largest_free: int = 0
    blocks: int = 0
    live_objects: int = 0
    cached_objects: int = 0
    cached_bytes: int = 0
    waiters: int = 0
    allocations: int = 0
    refusals: int = 0
    evictions: int = 0
    leaked_objects: int = 0
    warm: int = 0


class ChunkMemory(ABC):
    """Memory that chunks are allocated from: an arena of our own, or memory that an engine owns. Thread-safe.

    Connectors only borrow it: its maker closes it.
    """

    metadata: CacheMetadata | None = None
    """The geometry of the model's cache, where it is known."""

    @property
    def lease(self) -> Lease | None:
        """What operations on this memory work under, where its owner may end before them; None where that cannot be."""
        return None

    @property
    def hot_cache(self) -> HotCache | None:
        """The cache of chunks in this memory; None where it has none."""
        return None

    @abstractmethod
    def allocate_chunk(self, metadata: ChunkMetadata, eviction: bool = True) -> MemoryObj | None:
        """Returns one object with one reference, or None where there is no room now. Its bytes are arbitrary.

        Never waits. `eviction=False` leaves cached chunks in place.

        Raises:
            BackendClosedError: after `close()`.
        """

    @abstractmethod
    async def allocate_chunk_async(self, metadata: ChunkMetadata, *, timeout: float | None = None) -> MemoryObj:
        """Returns one object with one reference, as soon as there is room. `timeout` is seconds; None: no limit.

        Raises:
            AllocationTimeoutError: no room appeared in time. Nothing is held then.
            ArenaExhaustedError: the memory as a whole is too small, so that waiting could never help.
            BackendClosedError: after `close()`.
        """

    def may_pass(self, nbytes: int) -> bool:
        """Returns whether a get may take `nbytes` now, although others may be waiting for room. Counts it as taken.

        True where nobody can wait. Never waits.
        """
        return True

    @abstractmethod
    def owns(self, obj: object) -> bool:
        """Whether `obj` is a memory object of this memory."""

    @abstractmethod
    def statistics(self) -> ArenaStatistics:
        """What the memory and its hot cache hold now."""

    @abstractmethod
    def close(self) -> None:
        """Refuses further allocations. Idempotent; objects that are held stay readable."""

    def chunk_limit(self) -> int:
        """The bytes of the largest chunk that there can ever be room for."""
        return self.statistics().capacity

    def allocate(
        self,
        shapes: Any,
        dtypes: Any,
        fmt: MemoryFormat | None = None,
        eviction: bool = True,
        busy_loop: bool = False,
    ) -> MemoryObj | None:
        """`allocate_chunk` with LMCache's arguments.

        `shapes` and `dtypes` are one item each, or lists of equal length for several tensor groups. `fmt` defaults to
        what `ChunkMetadata.of` reads off the shapes. `busy_loop` is accepted because LMCache passes it, and ignored.

        Raises:
            InvalidShapeError: shapes and dtypes do not describe a chunk.
            UnknownDtypeError: there is no such dtype.
            BackendClosedError: after `close()`.
        """
        return self.allocate_chunk(ChunkMetadata.of(shapes, dtypes, fmt), eviction)

    @checkpointed(release_all)
    async def allocate_async(
        self, shapes: Any, dtypes: Any, fmt: MemoryFormat | None = None, *, timeout: float | None = None
    ) -> MemoryObj:
        """`allocate_chunk_async` with LMCache's arguments; raises what `allocate` raises as well."""
        return await self.allocate_chunk_async(ChunkMetadata.of(shapes, dtypes, fmt), timeout=timeout)

    def allocate_sync(
        self, shapes: Any, dtypes: Any, fmt: MemoryFormat | None = None, *, timeout: float | None = None
    ) -> MemoryObj:
        """`allocate_async` for a thread without an event loop: blocks it until there is room, for `timeout` seconds.

        None: no limit. The thread stands in the same line as those who await.

        Raises:
            SyncCallOnLoopError: an event loop runs in this thread, and would stand still.
            LMCacheConnectError: as `allocate_async` raises it.
        """
        metadata = ChunkMetadata.of(shapes, dtypes, fmt)
        if _is_in_loop():
            raise SyncCallOnLoopError("allocate_sync", "await allocate_async() there")
        if not self.statistics().waiters and (obj := self.allocate_chunk(metadata)) is not None:
            return obj
        # An event loop that lives as long as the wait: who waits for room does so on some loop. Made by a factory, it
        # leaves the thread's own setting of a loop alone.
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            return runner.run(self.allocate_chunk_async(metadata, timeout=timeout))

    def batched_allocate(
        self,
        shapes: Any,
        dtypes: Any,
        batch_size: int,
        fmt: MemoryFormat | None = None,
        eviction: bool = True,
        busy_loop: bool = False,
    ) -> list[MemoryObj] | None:
        """Returns `batch_size` objects of one kind. Returns None, and holds nothing, where not all of them have room.

        Raises:
            InvalidArgumentError: `batch_size` is below 1.
            InvalidShapeError: shapes and dtypes do not describe a chunk.
            UnknownDtypeError: there is no such dtype.
            BackendClosedError: after `close()`.
        """
        if batch_size < 1:
            raise InvalidArgumentError("batch_size", f"{batch_size} is below 1")
        metadata = ChunkMetadata.of(shapes, dtypes, fmt)
        if batch_size * BlockAllocator.rounded(metadata.nbytes) > self.statistics().capacity:
            return None  # before any cached chunk is evicted in vain
        objs: list[MemoryObj] = []
        for _ in range(batch_size):
            obj = self.allocate_chunk(metadata, eviction)
            if obj is None:
                release_all(objs)
                return None
            objs.append(obj)
        return objs

    def get_full_chunk_size_bytes(self) -> int:
        """Bytes of a full chunk of the model in `metadata`.

        Raises:
            InvalidArgumentError: the memory was made without `metadata`.
        """
        if self.metadata is None:
            raise InvalidArgumentError("metadata", "the memory was made without it, so a full chunk's size is unknown")
        return self.metadata.full_chunk_bytes


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
