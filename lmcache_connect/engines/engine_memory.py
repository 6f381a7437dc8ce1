"""`EngineMemory`: memory that an engine owns, as a `ChunkMemory` of this toolkit."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from typing import Any, Final

import anyio

from ..checkpoint import checkpointed
from ..errors import AllocationTimeoutError, BackendClosedError
from ..lease import Lease
from ..memory import ArenaStatistics, ChunkMemory, MemoryObj, release_all
from ..metadata import CacheMetadata, ChunkMetadata
from ..process import this_process
from .exported_memory import EngineObject, ExportedMemory

_POLL_SECONDS: Final = 0.01
"""Engines do not announce that memory became free. An allocation that waits tries again after so long."""


class EngineMemoryObj(MemoryObj):
    """This toolkit's object for the memory of `theirs`, an object of the engine.

    One that was allocated holds a reference on `theirs`, until it has died and no view of it is left. One that was
    borrowed holds none.
    """

    __slots__ = ("theirs",)

    def __init__(self, theirs: EngineObject, view: memoryview, metadata: ChunkMetadata, owner: _Owner) -> None:
        super().__init__(view, metadata, owner)
        self.theirs: Any = theirs

    def handed_over(self) -> Any:
        """Returns the engine's object with one reference, in place of the one that this object gives up."""
        theirs = self.theirs
        theirs.ref_count_up()
        self.ref_count_down()
        return theirs


class EngineMemory(ChunkMemory):
    """Allocates from an engine's memory, so that chunks are received where the engine wants them.

    The engine is never asked to wait, because it would block the event loop's thread. It has a hot cache of its own,
    if any. A subclass says how an object is allocated.
    """

    def __init__(self, theirs: Any, capacity: int, metadata: CacheMetadata | None) -> None:
        """`theirs` is the engine's allocator. None: this process has no memory, and every allocation finds no room.

        `capacity` is in bytes, as the engine was configured.
        """
        self.metadata = metadata
        self._lease = Lease()
        self._process = this_process()
        self._theirs = theirs
        self._capacity = capacity
        self._closed = False
        self._exported = ExportedMemory()
        self._owner = _Owner(self._exported)

    @property
    def is_closed(self) -> bool:
        """Whether `close()` was called."""
        return self._closed

    @property
    def touched(self) -> int:
        """The number of the engine's objects that something here can still read or write."""
        return len(self._exported)

    @abstractmethod
    def _allocate_theirs(self, allocator: Any, metadata: ChunkMetadata, eviction: bool) -> EngineObject | None:
        """Returns an object of the engine's with one reference, or None where the engine has no room now."""

    def allocate_chunk(self, metadata: ChunkMetadata, eviction: bool = True) -> MemoryObj | None:
        """Returns one object with one reference, or None where the engine has no room now.

        Raises:
            BackendClosedError: after `close()`.
        """
        self._check_open()
        self._exported.reclaim()
        if self._theirs is None or (theirs := self._allocate_theirs(self._theirs, metadata, eviction)) is None:
            return None
        try:
            view = self._exported.export(theirs, metadata.nbytes, holds_reference=True)
        except BaseException:
            theirs.ref_count_down()
            raise
        return EngineMemoryObj(theirs, view, metadata, self._owner)

    @property
    def lease(self) -> Lease:
        """The lease that every operation on this memory works under. The guard of the memory recalls it."""
        return self._lease

    @checkpointed(release_all)
    async def allocate_chunk_async(self, metadata: ChunkMetadata, *, timeout: float | None = None) -> MemoryObj:
        """Returns one object with one reference, as soon as the engine has room.

        Raises:
            AllocationTimeoutError: no room within `timeout` seconds (None: no limit), or the process has no memory.
            BackendClosedError: after `close()`, also when that comes during the wait.
        """
        started = time.monotonic()
        ends = math.inf if timeout is None else started + timeout
        while True:
            obj = self.allocate_chunk(metadata)
            if obj is not None:
                return obj
            if self._theirs is None or time.monotonic() >= ends:
                raise AllocationTimeoutError(metadata.nbytes, 0, self._capacity, time.monotonic() - started)
            await anyio.sleep(_POLL_SECONDS)

    def borrowed(self, theirs: EngineObject, metadata: ChunkMetadata) -> EngineMemoryObj:
        """Returns an object for the memory of `theirs`, whose references stay with the caller.

        Raises:
            BackendClosedError: after `close()`.
        """
        self._check_open()
        view = self._exported.export(theirs, metadata.nbytes, holds_reference=False)
        return EngineMemoryObj(theirs, view, metadata, self._owner)

    def owns(self, obj: object) -> bool:
        """Whether `obj` was allocated or borrowed here."""
        return isinstance(obj, MemoryObj) and obj.belongs_to(self._owner)

    def statistics(self) -> ArenaStatistics:
        """The capacity alone. Engines do not tell how much of it is in use: all of it counts as reserved."""
        return ArenaStatistics(capacity=self._capacity, reserved=self._capacity)

    def close(self) -> None:
        """Refuses further allocations and borrowing. The memory stays the engine's."""
        self._closed = True

    def _check_open(self) -> None:
        self._process.check("the engine's memory")
        if self._closed:
            raise BackendClosedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._capacity} bytes>"


class _Owner:
    """What the objects report to."""

    def __init__(self, exported: ExportedMemory) -> None:
        self._exported = exported

    def object_released(self, obj: MemoryObj, leaked: bool) -> None:
        obj.theirs = None  # type: ignore[attr-defined]
        if not leaked:  # the garbage collector calls for those, and must not wait for the engine's locks
            self._exported.reclaim()

    def object_let_go(self, obj: MemoryObj) -> None:
        pass
