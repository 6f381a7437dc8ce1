"""`PartsRoom`: parts of chunks that have their memory, in the place of a `Room`. `ChunkPart`: the bytes of one part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..contract import bytes_metadata
from ..errors import ReleasedObjectError
from ..metadata import ChunkMetadata
from .callers_room import OtherChunkError
from .chunk_bytes import ChunkBytes


class ChunkPart:
    """A part of a chunk's bytes, as `ChunkBytes`. It is described as bytes. Nothing reaches them after its release."""

    __slots__ = ("_chunk", "_nbytes", "_start", "metadata")

    def __init__(self, chunk: ChunkBytes, start: int, end: int) -> None:
        """The bytes from `start` to `end` of a chunk, which has to outlive this."""
        self._chunk: ChunkBytes | None = chunk
        self._start: Final = start
        self._nbytes: Final = end - start
        self.metadata: Final[ChunkMetadata] = bytes_metadata(end - start)

    def get_size(self) -> int:
        """The part's size in bytes."""
        return self._nbytes

    def views_of(self, start: int, end: int) -> list[memoryview]:
        """New views of the bytes from `start` to `end` of the part, in order.

        Raises:
            ReleasedObjectError: after the release, of this or of the chunk.
        """
        chunk = self._chunk
        if chunk is None or not chunk.is_valid():
            raise ReleasedObjectError("a transfer")
        return chunk.views_of(self._start + start, self._start + end)

    def is_valid(self) -> bool:
        """Whether neither this nor the chunk was released."""
        return self._chunk is not None and self._chunk.is_valid()

    def ref_count_down(self) -> None:
        """Gives the part up. The chunk keeps its memory. Idempotent."""
        self._chunk = None


class PartsRoom:
    """Room for the pieces of chunks: for each slot the part that its piece belongs in. Nothing is allocated.

    Attributes:
        unfit: the slots whose record is of another length than the part.
    """

    __slots__ = ("_parts", "is_filled_up", "is_short", "unfit")

    def __init__(self, parts: Sequence[ChunkPart]) -> None:
        self._parts: Final = parts
        self.unfit: set[int] = set()
        self.is_short = self.is_filled_up = False

    async def make(self, metadata: ChunkMetadata, slot: int = 0) -> ChunkPart:
        """Returns the part of a slot, for a record with this metadata.

        Raises:
            OtherChunkError: the record does not fit it. The slot then counts as unfit.
        """
        part = self.make_now(metadata, 1, slot)
        if part is None:
            self.unfit.add(slot)
            raise OtherChunkError
        return part

    def make_now(self, metadata: ChunkMetadata, expected: int, slot: int = 0) -> ChunkPart | None:
        """Returns the part of a slot, as `make` does. None where the record does not fit it."""
        part = self._parts[slot]
        return part if part.metadata == metadata else None

    def part(self, slots: Sequence[int]) -> PartsRoom:
        """Returns room for some of the slots."""
        return PartsRoom([self._parts[slot] for slot in slots])

    @property
    def made(self) -> int:
        """Always 0: no chunk is made here."""
        return 0

    def release_since(self, made: int, kept: Sequence[object]) -> None:
        """Does nothing: the chunks belong to the get that the parts are of."""

    def release_spare(self) -> None:
        """Does nothing: no memory is set aside."""

    def release(self) -> None:
        """Gives all parts up: nothing is received into them any more."""
        for part in self._parts:
            part.ref_count_down()
