"""`StoredRecord`: a chunk in the form in which its object holds it, without a copy of its payload."""

from __future__ import annotations

from collections.abc import Callable

from lmcache_connect.record import NO_CHECKSUM_TRAILER, TRAILER_BYTES, PayloadHasher, encode_header
from lmcache_connect.streaming import ChunkBytes


class StoredRecord:
    """Header, payload and trailer. `trailer` is None until the payload was hashed. `length` is in bytes."""

    def __init__(self, key: str, obj: ChunkBytes, checksum: bool) -> None:
        self.header = encode_header(key, obj.metadata, checksum=checksum)
        self.obj = obj
        self.has_checksum = checksum
        self.trailer: bytes | None = None if checksum else NO_CHECKSUM_TRAILER
        self.length = len(self.header) + obj.get_size() + TRAILER_BYTES

    def hash_payload(self) -> None:
        """Makes the trailer. Reads the whole payload, so it must not run on an event loop."""
        if self.trailer is None:
            hasher = PayloadHasher()
            for view in self.payload():
                hasher.update(view)
            self.trailer = hasher.trailer()

    def payload(self) -> list[memoryview]:
        """Returns the whole payload."""
        return self.obj.views_of(0, self.obj.get_size())

    def feed(self, update: Callable[[bytes | memoryview], object], start: int, end: int) -> None:
        """Shows the bytes of a span to a hasher. The trailer must be known."""
        head, payload, tail = self.cut(start, end)
        update(head)
        for view in payload:
            update(view)
        update(tail)

    def cut(self, start: int, end: int) -> tuple[bytes, list[memoryview], bytes]:
        """Returns what a span holds of header, payload and trailer. The trailer must be known."""
        first = len(self.header)
        nbytes = self.obj.get_size()
        last = first + nbytes
        assert self.trailer is not None  # noqa: S101  # the caller has hashed
        begin = min(max(start - first, 0), nbytes)
        return (
            self.header[start:end],
            self.obj.views_of(begin, max(min(end - first, nbytes), begin)),
            self.trailer[max(start - last, 0) : max(end - last, 0)],
        )
