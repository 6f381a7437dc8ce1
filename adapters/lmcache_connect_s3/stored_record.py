"""`StoredRecord`: a chunk in the form in which its object holds it, without a copy of its payload."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from lmcache_connect import MemoryObj
from lmcache_connect.record import NO_CHECKSUM_TRAILER, TRAILER_BYTES, PayloadHasher, encode_header

_HASHED_PIECE: Final = 1 << 20


class StoredRecord:
    """Header, payload and trailer. `trailer` is None until the payload was hashed. `length` is in bytes."""

    def __init__(self, key: str, obj: MemoryObj, checksum: bool) -> None:
        self.header = encode_header(key, obj.metadata, checksum=checksum)
        self.obj = obj
        self.has_checksum = checksum
        self.trailer: bytes | None = None if checksum else NO_CHECKSUM_TRAILER
        self.length = len(self.header) + obj.get_size() + TRAILER_BYTES

    def hash_payload(self) -> None:
        """Makes the trailer. Reads the whole payload, so it must not run on an event loop."""
        if self.trailer is None:
            hasher = PayloadHasher()
            with self.obj.byte_array as view:
                for start in range(0, len(view), _HASHED_PIECE):
                    hasher.update(view[start : start + _HASHED_PIECE])
            self.trailer = hasher.trailer()

    def feed(self, update: Callable[[bytes | memoryview], object], start: int, end: int) -> None:
        """Shows the bytes of a span to a hasher. The trailer must be known."""
        head, payload, tail = self.cut(start, end)
        update(head)
        for at in range(0, len(payload), _HASHED_PIECE):
            update(payload[at : at + _HASHED_PIECE])
        update(tail)

    def cut(self, start: int, end: int) -> tuple[bytes, memoryview, bytes]:
        """Returns what a span holds of header, payload and trailer. The trailer must be known."""
        first = len(self.header)
        last = first + self.obj.get_size()
        assert self.trailer is not None  # noqa: S101  # the caller has hashed
        return (
            self.header[start:end],
            self.obj.byte_array[max(start - first, 0) : max(min(end, last) - first, 0)],
            self.trailer[max(start - last, 0) : max(end - last, 0)],
        )
