"""`CallersRoom`: memory of a get's caller, in the place of a `Room`. `CallersChunk`: the bytes of one chunk in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..contract import CallerMemory
from ..errors import ReleasedObjectError
from ..memory import Regions
from ..metadata import ChunkMetadata


class OtherChunkError(Exception):
    """The record is not of the chunk that the memory is for: it has another length, or other metadata."""


class CallersChunk:
    """The bytes of one chunk in memory of a caller, as `ChunkBytes`. Nothing reaches them after its release."""

    __slots__ = ("_nbytes", "_regions", "metadata")

    def __init__(self, regions: Regions, metadata: ChunkMetadata) -> None:
        self._regions: Regions | None = regions
        self._nbytes = regions.nbytes
        self.metadata = metadata

    def get_size(self) -> int:
        """The chunk's size in bytes."""
        return self._nbytes

    def views_of(self, start: int, end: int) -> list[memoryview]:
        """New views of the bytes from `start` to `end`, in order.

        Raises:
            ReleasedObjectError: after the release, or where the caller's memory was recalled.
        """
        if self._regions is None:
            raise ReleasedObjectError("a transfer")
        return self._regions.views_of(start, end)

    def is_valid(self) -> bool:
        """Whether it was not released."""
        return self._regions is not None

    def ref_count_down(self) -> None:
        """Gives the memory up. Idempotent."""
        self._regions = None


class CallersRoom:
    """Memory of the caller of one get: a chunk's for each slot. Nothing is allocated, so nothing waits for room.

    Attributes:
        unfit: the slots whose record is of another chunk than the memory is for.
    """

    __slots__ = ("_made", "_memory", "_parts", "_slots", "is_filled_up", "is_short", "unfit")

    def __init__(self, memory: CallerMemory, slots: Sequence[int] | None = None) -> None:
        """`slots`: those of `memory` that this is room for, in its own order; None: all."""
        self._memory: Final = memory
        self._slots: Final = slots
        self._made: list[CallersChunk] = []
        self._parts: list[CallersRoom] = []
        self.unfit: set[int] = set()
        self.is_short = self.is_filled_up = False

    def part(self, slots: Sequence[int]) -> CallersRoom:
        """Returns room for some of the slots. What is unfit there counts as unfit here. On the event loop."""
        part = CallersRoom(self._memory, slots if self._slots is None else [self._slots[slot] for slot in slots])
        part.unfit = self.unfit
        self._parts.append(part)
        return part

    async def make(self, metadata: ChunkMetadata, slot: int = 0) -> CallersChunk:
        """Returns the memory of a slot, for a record with this metadata. See `ChunkRoom.make`.

        Raises:
            OtherChunkError: it is for another one. The slot then counts as unfit.
        """
        chunk = self.make_now(metadata, 1, slot)
        if chunk is None:
            self.unfit.add(self._slot(slot))
            raise OtherChunkError
        return chunk

    def make_now(self, metadata: ChunkMetadata, expected: int, slot: int = 0) -> CallersChunk | None:
        """Returns the memory of a slot, as `make` does. None where it is for another chunk."""
        at = self._slot(slot)
        if not self._memory.accepts(at, metadata):
            return None
        chunk = CallersChunk(self._memory.regions[at], metadata)
        self._made.append(chunk)
        return chunk

    def release_spare(self) -> None:
        """Does nothing: no memory is set aside before a record has come."""

    def release(self) -> None:
        """Gives all of the memory up: the get has ended."""
        for part in self._parts:
            part.release()
        for chunk in self._made:
            chunk.ref_count_down()
        self._made.clear()

    @property
    def made(self) -> int:
        """How many chunks were made here, and not by a part."""
        return len(self._made)

    def release_since(self, made: int, kept: Sequence[object]) -> None:
        """Gives up what was made here after the first `made` chunks, except for those in `kept`."""
        wanted = {id(chunk) for chunk in kept}
        since = self._made[made:]
        self._made[made:] = [chunk for chunk in since if id(chunk) in wanted]
        for chunk in since:
            if id(chunk) not in wanted:
                chunk.ref_count_down()

    def _slot(self, slot: int) -> int:
        return slot if self._slots is None else self._slots[slot]
