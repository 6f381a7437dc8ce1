"""`ChunkSize`: how large a chunk probably is, before it is seen."""

from __future__ import annotations

import asyncio
from typing import Final

from ..metadata import CacheMetadata

_UNKNOWN_BYTES: Final = 1 << 20
"""Assumed where nothing is known. Most chunks are larger; the first one that is seen corrects it."""

_UNKNOWN_DEADLINE_BYTES: Final = 64 << 20
"""The largest usual chunk. A deadline that is too long costs less than one that ends sound transfers."""


class ChunkSize:
    """Three estimates of a chunk's size in bytes, for a connector that is about to fetch one.

    They start with the size of a full chunk where the model is known, and follow the chunks that `observe` is told of.
    Belongs to one event loop.
    """

    __slots__ = ("expected", "for_budget", "for_deadline")

    def __init__(self, metadata: CacheMetadata | None = None) -> None:
        full = metadata.full_chunk_bytes if metadata is not None else None
        self.expected = full or _UNKNOWN_BYTES
        """The size of the last chunk that was seen: what the next one probably has."""
        self.for_budget = full or _UNKNOWN_BYTES
        """What a byte budget should take for one chunk: no chunk that was seen is larger."""
        self.for_deadline = full or _UNKNOWN_DEADLINE_BYTES
        """What a deadline should allow for: no chunk that was seen is larger."""

    def observe(self, nbytes: int) -> None:
        """Takes note of the size of a chunk that was fetched."""
        self.expected = nbytes
        self.for_budget = max(self.for_budget, nbytes)
        self.for_deadline = max(self.for_deadline, nbytes)

    def observe_in_thread(self, nbytes: int, loop: asyncio.AbstractEventLoop) -> None:
        """`observe` from any thread. `loop` is the event loop that this belongs to."""
        if nbytes <= self.for_budget and nbytes <= self.for_deadline:
            self.expected = nbytes
            return
        try:
            loop.call_soon_threadsafe(self.observe, nbytes)
        except RuntimeError:
            pass  # the loop was closed
