"""`ChunkBytes`: where the bytes of one chunk lie, and `ChunkRoom`: what makes such memory for the chunks of a get.

Protocol code sends and receives chunks by these two, and knows of no others. So the same code fills memory of the arena
(`MemoryObj`, from a `Room`) and memory that the caller owns (`CallersChunk`, from a `CallersRoom`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..metadata import ChunkMetadata


class ChunkBytes(Protocol):
    """The bytes of one chunk, in one buffer or in several that follow one another."""

    @property
    def metadata(self) -> ChunkMetadata:
        """Shapes, dtypes and format."""
        ...

    def get_size(self) -> int:
        """The chunk's size in bytes."""
        ...

    def views_of(self, start: int, end: int) -> list[memoryview]:
        """New views of the bytes from `start` to `end`, in order.

        Raises:
            ReleasedObjectError: the memory was released, or its owner has recalled it.
        """
        ...

    def is_valid(self) -> bool:
        """Whether it was not released."""
        ...

    def ref_count_down(self) -> None:
        """Releases it: nothing is received into it any more."""
        ...


class ChunkRoom(Protocol):
    """Makes memory for the chunks of one attempt at a get, and owns it until the get has succeeded."""

    @property
    def is_short(self) -> bool:
        """Whether it was found that not all chunks fit."""
        ...

    @is_short.setter
    def is_short(self, value: bool) -> None: ...

    @property
    def is_filled_up(self) -> bool:
        """Whether room that was released a moment ago is made again."""
        ...

    @is_filled_up.setter
    def is_filled_up(self, value: bool) -> None: ...

    async def make(self, metadata: ChunkMetadata, slot: int = 0) -> ChunkBytes:
        """Returns memory for the chunk of a slot, whose payload is on the wire.

        If this raises, the caller takes the payload off the wire, or closes the connection.

        Raises:
            NoRoomError, ArenaExhaustedError, AllocationTimeoutError: see `Room.make`.
            OtherChunkError: see `CallersRoom.make`. The slot has no chunk then.
        """
        ...

    def make_now(self, metadata: ChunkMetadata, expected: int, slot: int = 0) -> ChunkBytes | None:
        """`make` where that needs no waiting. None where it would wait or raise. See `Room.make_now`."""
        ...

    def part(self, slots: Sequence[int]) -> ChunkRoom:
        """Returns room for some of the slots, counted from 0 in their order. What it makes counts as made here.

        On the event loop.
        """
        ...

    @property
    def made(self) -> int:
        """How many chunks were made here, and not by a part."""
        ...

    def release_since(self, made: int, kept: Sequence[object]) -> None:
        """Releases what was made here after the first `made` chunks, except for those in `kept`.

        Nothing is received into it any more.
        """
        ...

    def release_spare(self) -> None:
        """Releases what was made ahead of chunks that have not come."""
        ...

    def release(self) -> None:
        """Releases everything: the attempt has failed, and nothing is received any more."""
        ...
