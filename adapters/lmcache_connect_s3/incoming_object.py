"""`IncomingObject`: an object on its way into memory. `Span`: the bytes of it that one connection brings."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

import anyio.lowlevel

from lmcache_connect.record import TRAILER_BYTES, FrameHeader, PayloadHasher
from lmcache_connect.streaming import ChunkBytes
from lmcache_connect.transport import Stream

from .object_answer import ObjectVersion
from .object_checksum import ObjectChecksum

_HASHED_PIECE: Final = 1 << 20


class IncomingObject:
    """Receives an object as one span or several, when its header has verified and there is memory for its payload.

    The bytes of one span are hashed as they come. Several spans come side by side in no order, so they are hashed when
    all have come.
    """

    def __init__(
        self,
        header: FrameHeader,
        chunk: ChunkBytes,
        version: ObjectVersion,
        spans: int,
        object_checksum: ObjectChecksum | None,
    ) -> None:
        """`spans`: how many there are. `object_checksum` has been given the header; None where there are several."""
        self.chunk: Final = chunk
        self.version: Final = version
        self.is_one_span: Final = spans == 1
        self._header: Final = header
        self._trailer = bytearray(TRAILER_BYTES)
        self._hasher = PayloadHasher() if header.has_checksum else None
        self._object_checksum = object_checksum
        self._spans_left = spans
        self._lock = threading.Lock()

    @property
    def can_go_on(self) -> bool:
        """Whether a span that broke off may be continued: something tells whether the rest is of the same object.

        The ETag does. So does the record's checksum where the object comes in several spans.
        """
        return self.version.etag is not None or not self.is_one_span

    def span_ended(self) -> bool:
        """Counts one span that has come or was given up. Returns whether no other is left. Safe in any thread."""
        with self._lock:
            self._spans_left -= 1
            return not self._spans_left

    async def receive(self, stream: Stream, span: Span) -> None:
        """Receives a span. If that breaks off, `span` is what is left of it."""
        payload_start = self._header.length
        payload_end = payload_start + self._header.payload_length
        if span.start < payload_end:
            end = min(span.end, payload_end)
            progress = _Progress(span, self._updates())
            await stream.receive_into_all(
                self.chunk.views_of(span.start - payload_start, end - payload_start), progress
            )
        if span.start < span.end:
            nbytes = span.end - span.start
            at = span.start - payload_end
            self._trailer[at : at + nbytes] = await stream.peek(nbytes)
            stream.take(nbytes)
            span.start = span.end

    def _updates(self) -> Sequence[Callable[[memoryview], object]]:
        if not self.is_one_span:
            return ()
        return [each.update for each in (self._hasher, self._object_checksum) if each is not None]

    async def verify(self, *, on_loop: bool) -> None:
        """Compares the checksums, when every span has come. `on_loop`: let the event loop do other things meanwhile.

        Raises:
            CorruptRecordError: one of them differs.
        """
        trailer = bytes(self._trailer)
        if self._hasher is not None:
            if not self.is_one_span:
                await self._hash_payload(self._hasher, on_loop)
            self._hasher.verify(trailer)
        if self._object_checksum is not None:
            self._object_checksum.update(trailer)
            self._object_checksum.verify()

    async def _hash_payload(self, hasher: PayloadHasher, on_loop: bool) -> None:
        nbytes = self.chunk.get_size()
        for start in range(0, nbytes, _HASHED_PIECE):
            for view in self.chunk.views_of(start, min(start + _HASHED_PIECE, nbytes)):
                hasher.update(view)
                view.release()  # a kept traceback keeps this frame, and must not keep the memory from its owner
            if on_loop:
                await anyio.lowlevel.checkpoint()


class Span:
    """What is left to receive of an object by one job: the bytes from `start` to `end` (not included)."""

    __slots__ = ("end", "incoming", "start")

    def __init__(self, incoming: IncomingObject, start: int, end: int) -> None:
        self.incoming = incoming
        self.start = start
        self.end = end


class _Progress:
    """Shows the pieces of a span's payload to hashers, and moves the span's start on."""

    __slots__ = ("_span", "_updates")

    def __init__(self, span: Span, updates: Sequence[Callable[[memoryview], object]]) -> None:
        self._span = span
        self._updates = updates

    def update(self, piece: memoryview) -> None:
        for update in self._updates:
            update(piece)
        self._span.start += len(piece)


def cut(start: int, end: int, size: int) -> list[tuple[int, int]]:
    """Cuts the bytes from `start` to `end` into ranges of about `size` bytes. Returns no range where there are none."""
    if start >= end:
        return []
    count = max(1, round((end - start) / max(size, 1)))
    step = -(-(end - start) // count)
    return [(first, min(first + step, end)) for first in range(start, end, step)]
