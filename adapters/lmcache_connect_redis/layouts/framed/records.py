"""Records on a connection: whole chunks, heads and parts, between the arena and the socket."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from lmcache_connect import CorruptRecordError, MemoryObj
from lmcache_connect.errors import ValueTooLargeError
from lmcache_connect.record import (
    FIXED_HEADER_BYTES,
    MAX_HEADER_BYTES,
    MIN_HEADER_BYTES,
    NO_CHECKSUM_TRAILER,
    OVERHEAD_BYTES,
    TRAILER_BYTES,
    FrameHeader,
    PayloadHasher,
    StripePlan,
    decode_header,
    encode_header,
    glance_plan,
    header_length,
)
from lmcache_connect.streaming import Room

from ...options import RedisOptions
from ...protocol.connection import Connection
from ...protocol.replies import encode_command, encode_expiry
from .likely import LikelyHeader

STAGING_MS: Final = 600_000
"""Parts live so long, in milliseconds, until their head is written: what a writer that died leaves behind goes away."""


@dataclass(eq=False, slots=True)
class StripedChunk:
    """A chunk whose head was received and whose parts are on their way into `obj`."""

    name: str
    plan: StripePlan
    obj: MemoryObj
    left: int = field(init=False)
    failure: CorruptRecordError | None = None
    is_missing_parts: bool = False

    def __post_init__(self) -> None:
        self.left = self.plan.parts


class RecordIO:
    """Sends and receives the records of one store. Holds no connection."""

    def __init__(self, store: str, options: RedisOptions) -> None:
        self._store = store
        self._checksum = options.checksum
        self._limit = options.max_value_bytes
        ttl = options.ttl_ms
        self._expiry = encode_expiry(ttl)
        # Parts outlive their head, so that a head never stands without them.
        self._part_expiry = encode_expiry(STAGING_MS if ttl is None else ttl + STAGING_MS)
        self._likely = LikelyHeader()
        self.keeps_parts = ttl is None
        """Whether parts have to be made lasting once their head stands."""

    # ------------------------------------------------------------------------------------------------ sending

    def check_size(self, name: str, obj: MemoryObj) -> None:
        """Raises `ValueTooLargeError` where a chunk does not fit one value."""
        nbytes = obj.get_size() + TRAILER_BYTES
        if nbytes + MAX_HEADER_BYTES > self._limit:
            nbytes += len(encode_header(name, obj.metadata))
            if nbytes > self._limit:
                raise ValueTooLargeError(self._store, nbytes, self._limit)

    async def send_whole(self, connection: Connection, name: str, obj: MemoryObj) -> None:
        """A whole chunk. Two replies: `read_replaced`, then a status."""
        header = encode_header(name, obj.metadata, checksum=self._checksum)
        # What is replaced may be a striped chunk, whose parts then belong to nobody.
        before = encode_command(b"GETRANGE", name.encode(), b"0", b"%d" % (FIXED_HEADER_BYTES - 1))
        connection.pending += 1
        await self._send_value(connection, name, header, obj, (0, obj.get_size()), self._expiry, before)

    async def send_part(self, connection: Connection, name: str, obj: MemoryObj, plan: StripePlan, index: int) -> None:
        """Part `index`. One reply: a status."""
        header = encode_header(name, obj.metadata, checksum=self._checksum, plan=plan, part_index=index)
        part = plan.part_name(name, index)
        await self._send_value(connection, part, header, obj, plan.bounds(index), self._part_expiry)

    async def send_head(self, connection: Connection, name: str, obj: MemoryObj, plan: StripePlan) -> None:
        """The head, which commits the chunk. One reply: `read_replaced`."""
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
        head = b"%b*%d\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b" % (
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
        await connection.stream.send_framed(head, obj.byte_array[start:end], hasher, tail)

    async def read_replaced(self, connection: Connection) -> StripePlan | None:
        """Of the reply that holds what a put replaces, the stripe plan, where that was striped."""
        size = connection.number(await connection.expect(b"$", "the old value"))
        plan = None
        if size >= FIXED_HEADER_BYTES:
            plan = glance_plan(await connection.stream.peek(FIXED_HEADER_BYTES))
        if size >= 0:
            await connection.stream.discard(size + 2)
        connection.pending -= 1
        return plan

    # ---------------------------------------------------------------------------------------------- receiving

    async def receive(
        self, connection: Connection, name: str, room: Room, outstanding: int = 1
    ) -> MemoryObj | StripedChunk | None:
        """Receives the next reply: a whole chunk, or the head of a striped one, with room for its parts.

        Returns None if the store does not hold the chunk. `outstanding`: replies that are expected, this one included.

        Raises:
            CorruptRecordError: it does not verify. The stream stands behind it and is usable.
        """
        header = self._likely.take(connection, name)
        if header is None:
            outstanding = 1  # the next one may be different again
            size = await self._receive_size(connection)
            if size is None:
                return None
            header = await self._checked_header(connection, name, size)
            if header.part_index:
                await self._skip(connection, size)
                raise CorruptRecordError("key", f"it is part {header.part_index} of a striped chunk")
            if header.plan is None and header.payload_length:
                self._likely.remember(size, header, connection.stream.buffered_view())
            connection.stream.take(header.length)
        obj = await room.make(connection, header.metadata, outstanding)
        try:
            await self._receive_payload(connection, header, obj, (0, header.payload_length))
        except BaseException:
            obj.ref_count_down()
            raise
        return obj if header.plan is None else StripedChunk(name, header.plan, obj)

    async def receive_part(self, connection: Connection, chunk: StripedChunk, index: int) -> bool:
        """Part `index` into its place in `chunk.obj`; False where the store does not hold it.

        Raises:
            CorruptRecordError: it does not verify. The stream stands behind it and is usable.
        """
        size = await self._receive_size(connection)
        if size is None:
            return False
        header = await self._checked_header(connection, chunk.name, size)
        if header.plan != chunk.plan or header.part_index != index or not chunk.obj.is_valid():
            await self._skip(connection, size)
            raise CorruptRecordError("part", f"it is not part {index} of this generation")
        connection.stream.take(header.length)
        await self._receive_payload(connection, header, chunk.obj, chunk.plan.bounds(index))
        return True

    async def _receive_size(self, connection: Connection) -> int | None:
        size = connection.number(await connection.expect(b"$", "a value"))
        if size == -1:
            connection.pending -= 1
            return None
        limit = self._limit + OVERHEAD_BYTES
        if not 0 <= size <= limit:
            raise connection.broken(f"a value of {size} bytes; expected at most {limit}")
        return size

    async def _checked_header(self, connection: Connection, name: str, size: int) -> FrameHeader:
        try:
            return await self._receive_header(connection, name, size)
        except CorruptRecordError as error:
            await self._skip(connection, size)
            if error.reason == "key":
                # Either the store holds a copied record, or this connection answers another question: not again.
                connection.is_suspect = True
            raise

    async def _skip(self, connection: Connection, size: int) -> None:
        await connection.stream.discard(size + 2)
        connection.pending -= 1

    async def _receive_header(self, connection: Connection, name: str, size: int) -> FrameHeader:
        if size < MIN_HEADER_BYTES + TRAILER_BYTES:
            raise CorruptRecordError("short", f"a value of {size} bytes is no record")
        length = header_length(await connection.stream.peek(8))
        if length + TRAILER_BYTES > size:
            raise CorruptRecordError("short", f"a value of {size} bytes with a header of {length}")
        return decode_header(await connection.stream.peek(length), name, size)

    async def _receive_payload(
        self, connection: Connection, header: FrameHeader, obj: MemoryObj, bounds: tuple[int, int]
    ) -> None:
        start, end = bounds
        hasher = PayloadHasher() if header.has_checksum else None
        stream = connection.stream
        if start < end:
            await stream.receive_into(obj.byte_array[start:end], hasher)
        trailer = bytes(await stream.peek(TRAILER_BYTES + 2))
        if trailer[TRAILER_BYTES:] != b"\r\n":
            raise connection.broken(f"a value ends with {trailer[TRAILER_BYTES:]!r}")
        stream.take(TRAILER_BYTES + 2)
        connection.pending -= 1
        if hasher is not None:
            hasher.verify(trailer[:TRAILER_BYTES])
