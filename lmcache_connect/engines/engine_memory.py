"""`EngineMemory`: memory that an engine owns, as a `ChunkMemory` of this toolkit."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from typing import Any, Final, Protocol

import anyio

from ..errors import AllocationTimeoutError, BackendClosedError
from ..memory import ArenaStatistics, ChunkMemory, MemoryObj
from ..metadata import CacheMetadata, ChunkMetadata

_POLL_SECONDS: Final = 0.01
"""Engines do not announce that memory became free. An allocation that waits tries again after so long."""


class EngineObject(Protocol):
    """A memory object of the engine."""

    @property
    def byte_array(self) -> Any:
        """A writable buffer."""
        ...

    def ref_count_up(self) -> Any: ...

    def ref_count_down(self) -> Any: ...


class EngineMemoryObj(MemoryObj):
    """This toolkit's object for the memory of `theirs`, an object of the engine.

    One that was allocated holds a reference on `theirs` until it dies. One that was borrowed holds none.
    """

    __slots__ = ("theirs",)

    def __init__(self, theirs: EngineObject, metadata: ChunkMetadata, owner: _Allocated | _Borrowed) -> None:
        super().__init__(memoryview(theirs.byte_array).cast("B")[: metadata.nbytes], metadata, owner)
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
        self._theirs = theirs
        self._capacity = capacity
        self._closed = False
        self._allocated = _Allocated()
        self._borrowed = _Borrowed()

    @abstractmethod
    def _allocate_theirs(self, allocator: Any, metadata: ChunkMetadata, eviction: bool) -> EngineObject | None:
        """Returns an object of the engine's with one reference, or None where the engine has no room now."""

    def allocate_chunk(self, metadata: ChunkMetadata, eviction: bool = True) -> MemoryObj | None:
        """Returns one object with one reference, or None where the engine has no room now.

        Raises:
            BackendClosedError: after `close()`.
        """
        if self._closed:
            raise BackendClosedError
        if self._theirs is None or (theirs := self._allocate_theirs(self._theirs, metadata, eviction)) is None:
            return None
        try:
            return EngineMemoryObj(theirs, metadata, self._allocated)
        except BaseException:
            theirs.ref_count_down()
            raise

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
        """Returns an object for the memory of `theirs`, whose references stay with the caller."""
        return EngineMemoryObj(theirs, metadata, self._borrowed)

    def owns(self, obj: object) -> bool:
        """Whether `obj` was allocated or borrowed here."""
        return isinstance(obj, MemoryObj) and (obj.belongs_to(self._allocated) or obj.belongs_to(self._borrowed))

    def statistics(self) -> ArenaStatistics:
        """The capacity alone. Engines do not tell how much of it is in use: all of it counts as reserved."""
        return ArenaStatistics(capacity=self._capacity, reserved=self._capacity)

    def close(self) -> None:
        """Refuses further allocations. The memory stays the engine's."""
        self._closed = True

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._capacity} bytes>"


class _Allocated:
    """Owner of allocated objects: their reference on the engine's object ends with them."""

    def object_released(self, obj: MemoryObj, leaked: bool) -> None:
        theirs, obj.theirs = obj.theirs, None  # type: ignore[attr-defined]
        theirs.ref_count_down()

    def object_let_go(self, obj: MemoryObj) -> None:
        pass


class _Borrowed:
    """Owner of borrowed objects: the engine's object is the caller's."""

    def object_released(self, obj: MemoryObj, leaked: bool) -> None:
        obj.theirs = None  # type: ignore[attr-defined]

    def object_let_go(self, obj: MemoryObj) -> None:
        pass
