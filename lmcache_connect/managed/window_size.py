"""`WindowSize`: how many chunks a call over many keys moves at a time."""

from __future__ import annotations

from typing import Final

from ..memory import ChunkMemory

_MOST_KEYS: Final = 1024
_MOST_BYTES: Final = 64 << 20
"""A window is a batch of its own, and more in one adds no throughput."""

_FIRST_CAUTION: Final = 16

_SHARE: Final = 4
"""A window takes this part of the memory at most. There are two: one that the caller reads, and one that comes."""


class WindowSize:
    """The number of chunks of the next window: one at first, then twice as many each time, up to what has room.

    How large chunks are is learned from those that are seen. A window that found no room costs a wait. So the next ones
    are single chunks, and grow again only when many have come, each time more.
    """

    def __init__(self, memory: ChunkMemory) -> None:
        self.bytes: Final = max(1, min(_MOST_BYTES, memory.chunk_limit() // _SHARE))
        """What a window may take of the memory, in bytes. A single chunk may be larger."""
        self._next = 1
        self._largest = 1
        self._singles = 0  # that are still to come before windows grow
        self._caution = _FIRST_CAUTION

    def observe(self, nbytes: int) -> None:
        """Takes note of the bytes of memory that a chunk takes."""
        self._largest = max(self._largest, nbytes)

    def take(self) -> int:
        """The number of chunks that the next window may have."""
        taken = max(1, min(self._next, self.bytes // self._largest))
        if self._singles:
            self._singles -= 1
        else:
            self._next = min(2 * taken, _MOST_KEYS)
        return taken

    def begin_again(self) -> None:
        """Has the next windows be single chunks: others hold so much of the memory that there was too little room."""
        self._next = 1
        self._singles = self._caution
        self._caution *= 4
