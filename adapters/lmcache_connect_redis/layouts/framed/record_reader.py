"""`RecordReader`: receives records from a connection, straight into the arena."""

from __future__ import annotations

from dataclasses import dataclass, field

from lmcache_connect import CorruptRecordError, MemoryObj
from lmcache_connect.record import (
    MIN_HEADER_BYTES,
    OVERHEAD_BYTES,
    TRAILER_BYTES,
    FrameHeader,
    StripePlan,
    decode_header,
    header_length,
)
from lmcache_connect.streaming import Room

from ...options import RedisOptions
from ...protocol.connection import Connection
from .likely import LikelyRecords
from .payload import receive_payload


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


class RecordReader:
    """Receives whole chunks, and the heads and parts of striped ones, of one store. Holds no connection."""

    def __init__(self, options: RedisOptions) -> None:
        self._limit = options.max_value_bytes
        self._likely = LikelyRecords()

    async def receive(
        self, connection: Connection, name: str, room: Room, outstanding: int
    ) -> MemoryObj | StripedChunk | None:
        """Receives the next reply: a whole chunk, or the head of a striped one, with room for its parts.

        Returns None if the store does not hold the chunk. `outstanding`: replies that are expected, this one included.

        Raises:
            CorruptRecordError: it does not verify. The stream stands behind it and is usable.
        """
        begun = self._likely.take_header(connection, name, room, outstanding)
        if begun is None:
            begun = await self._begin(connection, name, room)
        if begun is None:
            return None
        header, obj = begun
        try:
            await receive_payload(connection, obj, 0, header.payload_length, header.has_checksum)
        except BaseException:
            obj.ref_count_down()
            raise
        return obj if header.plan is None else StripedChunk(name, header.plan, obj)

    async def _begin(self, connection: Connection, name: str, room: Room) -> tuple[FrameHeader, MemoryObj] | None:
        size = await self._receive_size(connection)
        if size is None:
            return None
        header = await self._checked_header(connection, name, size)
        if header.part_index:
            await self._skip(connection, size)
            raise CorruptRecordError("key", f"it is part {header.part_index} of a striped chunk")
        if header.plan is None:
            self._likely.remember(size, header, connection.stream.buffered_view())
        connection.stream.take(header.length)
        return header, await room.make(connection, header.metadata)

    async def receive_part(self, connection: Connection, chunk: StripedChunk, index: int) -> bool:
        """Receives part `index` into its place in `chunk.obj`. Returns whether the store holds it.

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
        start, end = chunk.plan.bounds(index)
        await receive_payload(connection, chunk.obj, start, end, header.has_checksum)
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
            raise CorruptRecordError("short", f"a value of {size} bytes is shorter than a record")
        length = header_length(await connection.stream.peek(8))
        if length + TRAILER_BYTES > size:
            raise CorruptRecordError("short", f"a value of {size} bytes with a header of {length}")
        return decode_header(await connection.stream.peek(length), name, size)
