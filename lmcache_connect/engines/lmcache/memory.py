"""LMCache's memory as a backend of this toolkit: what connectors receive into, and send from, inside LMCache."""

from __future__ import annotations

import math
import time
from typing import Any, Final

import anyio

from ...compat import described
from ...errors import AllocationTimeoutError, BackendClosedError, InvalidArgumentError, MissingExtraError
from ...memory import ArenaStatistics, LocalCPUBackend, MemoryObj
from ...metadata import CacheMetadata, ChunkMetadata, MemoryFormat

try:
    import torch
    from lmcache.v1.memory_management import MemoryFormat as TheirFormat
except ImportError as missing:
    raise MissingExtraError("running inside LMCache", missing.name or "lmcache", "torch") from missing

_LOOK_SECONDS: Final = 0.01
"""LMCache tells nobody when memory becomes free: who waits for it looks again after so long."""


class InsideObj(MemoryObj):
    """This toolkit's object for memory of one of LMCache's, `theirs`.

    One that was allocated holds the reference of `theirs` until it dies; one that was borrowed holds none.
    """

    __slots__ = ("theirs",)

    def __init__(self, theirs: Any, metadata: ChunkMetadata, owner: _Owner) -> None:
        super().__init__(memoryview(theirs.byte_array).cast("B")[: metadata.nbytes], metadata, owner)
        self.theirs: Any = theirs

    def handed_over(self) -> Any:
        """LMCache's object, with the one reference that this object gives up."""
        theirs = self.theirs
        theirs.ref_count_up()
        self.ref_count_down()
        return theirs


class _Owner:
    """Hears of the end of allocated objects."""

    def object_released(self, obj: MemoryObj, leaked: bool) -> None:
        theirs, obj.theirs = obj.theirs, None  # type: ignore[attr-defined]
        theirs.ref_count_down()

    def object_let_go(self, obj: MemoryObj) -> None:
        pass


class _Lender(_Owner):
    """Hears of the end of borrowed ones: the memory is its caller's."""

    def object_released(self, obj: MemoryObj, leaked: bool) -> None:
        obj.theirs = None  # type: ignore[attr-defined]


class InsideMemory(LocalCPUBackend):
    """Allocates from LMCache's own `LocalCPUBackend`, so that chunks are received where LMCache wants them.

    LMCache is never asked to wait: it does that in a loop on the event loop's thread. `theirs` is None where LMCache
    has no memory, in a scheduler: every allocation is refused then. The hot cache is LMCache's own affair.
    """

    def __init__(self, theirs: Any, capacity: int, metadata: CacheMetadata | None) -> None:
        # Not the base's, which would map an arena of its own.
        self.metadata = metadata
        self._theirs = theirs
        self._capacity = capacity
        self._closed = False
        self._owner = _Owner()
        self._lender = _Lender()

    def allocate_chunk(self, metadata: ChunkMetadata, eviction: bool = True) -> MemoryObj | None:
        """One object with one reference, or None where LMCache has no room now."""
        if self._closed:
            raise BackendClosedError
        if self._theirs is None:
            return None
        shapes: list[Any] = [torch.Size(shape) for shape in metadata.shapes]
        dtypes: list[Any] = [getattr(torch, dtype.torch_name) for dtype in metadata.dtypes]
        if metadata.fmt is MemoryFormat.BINARY_BUFFER:
            shapes, dtypes = [torch.Size((metadata.nbytes, 0, 0, 0))], [None]
        theirs = self._theirs.allocate(
            shapes, dtypes, TheirFormat(metadata.fmt.value), eviction=eviction, busy_loop=False
        )
        if theirs is None:
            return None
        try:
            return InsideObj(theirs, metadata, self._owner)
        except BaseException:
            theirs.ref_count_down()
            raise

    async def allocate_chunk_async(self, metadata: ChunkMetadata, *, timeout: float | None = None) -> MemoryObj:
        """One object with one reference, as soon as LMCache has room.

        Raises:
            AllocationTimeoutError: no room within `timeout` seconds (None: no limit), or there is no memory at all.
        """
        started = time.monotonic()
        ends = math.inf if timeout is None else started + timeout
        while True:
            obj = self.allocate_chunk(metadata)
            if obj is not None:
                return obj
            if self._theirs is None or time.monotonic() >= ends:
                raise AllocationTimeoutError(metadata.nbytes, 0, self._capacity, time.monotonic() - started)
            await anyio.sleep(_LOOK_SECONDS)

    def borrowed(self, theirs: Any) -> InsideObj:
        """An object for the memory of LMCache's `theirs`, whose references stay with its caller.

        Raises:
            InvalidShapeError, UnknownDtypeError: it holds nothing that this toolkit can describe.
        """
        return InsideObj(
            theirs, described(theirs.get_shapes(), theirs.get_dtypes(), theirs.get_memory_format()), self._lender
        )

    def owns(self, obj: object) -> bool:
        """Whether `obj` is one of these."""
        return isinstance(obj, InsideObj) and (obj.belongs_to(self._owner) or obj.belongs_to(self._lender))

    def get_full_chunk_size_bytes(self) -> int:
        """Bytes of a full chunk of LMCache's model."""
        if self.metadata is None:
            raise InvalidArgumentError("metadata", "LMCache has told of no model")
        return self.metadata.full_chunk_bytes

    def statistics(self) -> ArenaStatistics:
        """The capacity that LMCache was configured with. How much of it is in use LMCache does not tell: all of it."""
        counts = dict.fromkeys(ArenaStatistics._fields, 0)
        return ArenaStatistics(**{**counts, "capacity": self._capacity, "reserved": self._capacity})

    def close(self) -> None:
        """Refuses further allocations. LMCache's memory stays LMCache's."""
        self._closed = True

    def __repr__(self) -> str:
        return f"<InsideMemory of LMCache, {self._capacity} bytes>"
