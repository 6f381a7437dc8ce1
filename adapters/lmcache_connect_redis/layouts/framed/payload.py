"""Receives the payload of a record and the trailer behind it, which may hold the payload's checksum."""

from __future__ import annotations

from typing import Final

from lmcache_connect.record import TRAILER_BYTES, PayloadHasher
from lmcache_connect.streaming import ChunkBytes

from ...protocol.connection import Connection

_END_BYTES: Final = TRAILER_BYTES + 2
"""The trailer, and the CR LF that ends the reply."""


async def receive_payload(connection: Connection, obj: ChunkBytes, start: int, end: int, has_checksum: bool) -> None:
    """Fills `obj` from byte `start` to byte `end`, which may be the same, and ends the reply.

    Raises:
        CorruptRecordError: the checksum is wrong. The stream stands behind the record and is usable.
    """
    hasher = PayloadHasher() if has_checksum else None
    if end > start:
        # The views are in no variable: a failed get's frames may be kept, and would keep the memory from its owner.
        await connection.stream.receive_into_all(obj.views_of(start, end), hasher)
    stream = connection.stream
    if stream.buffered < _END_BYTES:  # as a rule it has come with the payload
        await stream.peek(_END_BYTES)
    rest = bytes(stream.buffered_view()[:_END_BYTES])
    if rest[TRAILER_BYTES:] != b"\r\n":
        raise connection.broken(f"a value ends with {rest[TRAILER_BYTES:]!r}")
    stream.take(_END_BYTES)
    connection.pending -= 1
    if hasher is not None:
        hasher.verify(rest[:TRAILER_BYTES])
