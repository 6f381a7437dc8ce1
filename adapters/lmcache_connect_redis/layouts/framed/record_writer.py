"""`RecordWriter`: sends records over a connection, straight from the arena."""

from __future__ import annotations

from typing import Final

from lmcache_connect import MemoryObj
from lmcache_connect.errors import ValueTooLargeError
from lmcache_connect.record import (
    FIXED_HEADER_BYTES,
    MAX_HEADER_BYTES,
    NO_CHECKSUM_TRAILER,
    TRAILER_BYTES,
    PayloadHasher,
    StripePlan,
    encode_header,
    glance_plan,
)

from ...options import RedisOptions
from ...protocol.connection import Connection
from ...protocol.replies import encode_command, encode_expiry

STAGING_MS: Final = 600_000
"""How long parts live, in milliseconds, until their head is written. So what a writer that died has left goes away."""


class RecordWriter:
    """Sends whole chunks, and the heads and parts of striped ones, as records of one store. Holds no connection."""

    def __init__(self, store: str, options: RedisOptions) -> None:
        self._store = store
        self._checksum = options.checksum
        self._limit = options.max_value_bytes
        ttl = options.ttl_ms
        self._expiry = encode_expiry(ttl)
        # Parts outlive their head, so that a head never stands without them.
        self._part_expiry = encode_expiry(STAGING_MS if ttl is None else ttl + STAGING_MS)
        self.keeps_parts = ttl is None
        """Whether parts have to be made lasting once their head stands."""

    def check_size(self, name: str, obj: MemoryObj) -> None:
        """Raises `ValueTooLargeError` if a chunk does not fit one value."""
        nbytes = obj.get_size() + TRAILER_BYTES
        if nbytes + MAX_HEADER_BYTES > self._limit:
            nbytes += len(encode_header(name, obj.metadata))
            if nbytes > self._limit:
                raise ValueTooLargeError(self._store, nbytes, self._limit)

    async def send_whole(self, connection: Connection, name: str, obj: MemoryObj) -> None:
        """Sends a whole chunk. It has two replies: one for `read_replaced`, then a status."""
        header = encode_header(name, obj.metadata, checksum=self._checksum)
        # What is replaced may be a striped chunk, whose parts then belong to nobody.
        before = encode_command(b"GETRANGE", name.encode(), b"0", b"%d" % (FIXED_HEADER_BYTES - 1))
        connection.pending += 1
        await self._send_value(connection, name, header, obj, (0, obj.get_size()), self._expiry, before)

    async def send_part(self, connection: Connection, name: str, obj: MemoryObj, plan: StripePlan, index: int) -> None:
        """Sends part `index`. It has one reply: a status."""
        header = encode_header(name, obj.metadata, checksum=self._checksum, plan=plan, part_index=index)
        part = plan.part_name(name, index)
        await self._send_value(connection, part, header, obj, plan.bounds(index), self._part_expiry)

    async def send_head(self, connection: Connection, name: str, obj: MemoryObj, plan: StripePlan) -> None:
        """Sends the head, which commits the chunk. It has one reply, for `read_replaced`."""
        header = encode_header(name, obj.metadata, checksum=self._checksum, plan=plan)
        await self._send_value(connection, name, header, obj, (0, 0), self._expiry + b"$3\r\nGET\r\n")

    async def _send_value(
        self,
        connection: Connection,
        key: str,
        header: bytes,
        obj: MemoryObj,
        bounds: tuple[int, int],
        options: bytes,
        before: bytes = b"",
    ) -> None:
        start, end = bounds
        size = len(header) + end - start + TRAILER_BYTES
        if size > self._limit:
            raise ValueTooLargeError(self._store, size, self._limit)
        name = key.encode()
        command = b"%b*%d\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b" % (
            before,
            3 + options.count(b"$"),
            len(name),
            name,
            size,
            header,
        )
        hasher = PayloadHasher() if self._checksum else None

        def tail() -> bytes:
            trailer = hasher.trailer() if hasher is not None else NO_CHECKSUM_TRAILER
            return b"%b\r\n%b" % (trailer, options)

        connection.pending += 1
        await connection.stream.send_framed(command, obj.byte_array[start:end], hasher, tail)

    async def read_replaced(self, connection: Connection) -> StripePlan | None:
        """Takes the reply that holds what a put replaced. Returns its stripe plan, or None if it was not striped."""
        size = connection.number(await connection.expect(b"$", "the old value"))
        plan = None
        if size >= FIXED_HEADER_BYTES:
            plan = glance_plan(await connection.stream.peek(FIXED_HEADER_BYTES))
        if size >= 0:
            await connection.stream.discard(size + 2)
        connection.pending -= 1
        return plan
