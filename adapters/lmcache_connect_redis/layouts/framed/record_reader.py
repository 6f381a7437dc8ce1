"""`RecordReader`: receives records from a connection, straight into the memory that their chunks have."""

from __future__ import annotations

from dataclasses import dataclass, field

from lmcache_connect import CorruptRecordError, StoreError
from lmcache_connect.errors import FrameError
from lmcache_connect.record import (
    MIN_HEADER_BYTES,
    OVERHEAD_BYTES,
    TRAILER_BYTES,
    FrameHeader,
    SpreadChunkError,
    StripePlan,
    decode_header,
    header_length,
    header_of_piece,
)
from lmcache_connect.streaming import ChunkBytes, ChunkRoom

from ...options import RedisOptions
from ...protocol.connection import Connection
from ...protocol.redirects import RedirectedError
from ...protocol.replies import MAX_SKIPPED_BYTES, MAX_VALUE_BYTES
from .likely import LikelyRecords
from .payload import receive_payload


@dataclass(eq=False, slots=True)
class StripedChunk:
    """A chunk whose first piece has begun to arrive, and whose pieces are on their way into `obj`.

    Attributes:
        header: the header of the first piece.
        encoded: the same, as it came.
        left: the pieces that were not received yet.
        failure: why a piece did not verify.
        is_replaced: whether a piece was missing, or belongs to another put.
        redirected: what the node of a cluster has said that did not have a piece any more.
    """

    name: str
    plan: StripePlan
    header: FrameHeader
    encoded: bytes
    obj: ChunkBytes
    left: int = field(init=False)
    failure: CorruptRecordError | None = None
    redirected: RedirectedError | None = None
    is_replaced: bool = False

    def __post_init__(self) -> None:
        self.left = self.plan.pieces


class RecordReader:
    """Receives whole chunks, and the pieces of striped ones, of one store. Holds no connection.

    One object serves all connections of a connector, on the event loop and in several threads at a time.
    """

    def __init__(self, options: RedisOptions) -> None:
        self._limit = options.max_value_bytes
        self._likely = LikelyRecords()
        self.last_was_striped = False
        """Whether the last chunk that was found was striped. The next one probably is the same."""

    async def receive(
        self, connection: Connection, name: str, room: ChunkRoom, slot: int, outstanding: int
    ) -> ChunkBytes | None:
        """Receives the next reply, which is the whole chunk of a slot. Returns None if the store does not hold it.

        `outstanding`: replies that the call expects, this one included.

        Raises:
            CorruptRecordError: it does not verify. The stream stands behind it, or was closed because it is long.
            WrongTypeError: the chunk is striped, or the value is another program's. The stream is usable.
            NoRoomError, ArenaExhaustedError, OtherChunkError: see `ChunkRoom.make`. As for one that does not verify.
        """
        begun = self._likely.take_header(connection, name, room, slot, outstanding)
        if begun is None:
            begun = await self._begin(connection, name, room, slot)
        if begun is None:
            return None
        header, obj = begun
        try:
            await receive_payload(connection, obj, 0, header.payload_length, header.has_checksum)
        except BaseException:
            obj.ref_count_down()
            raise
        return obj

    async def begin_striped(self, connection: Connection, name: str, room: ChunkRoom, slot: int) -> StripedChunk | None:
        """Receives the header of the next reply, which is the first piece of a striped chunk, and makes room for it.

        The piece's payload is for `receive_first_piece`. Returns None if the store does not hold the chunk.

        Raises:
            CorruptRecordError, WrongTypeError (the chunk is whole), NoRoomError, ArenaExhaustedError, OtherChunkError:
                see `receive`.
        """
        size = await self._receive_size(connection)
        if size is None:
            return None
        header = await self._checked_header(connection, name, size)
        if header.plan is None or header.index:
            await self._skip(connection, size)
            raise FrameError("piece", "it is not the first piece of a striped chunk")
        self.last_was_striped = True
        encoded = bytes(connection.stream.buffered_view()[: header.length])
        connection.stream.take(header.length)
        obj = await self._make_room(connection, room, slot, header, size)
        return StripedChunk(name, header.plan, header, encoded, obj)

    async def receive_first_piece(self, connection: Connection, chunk: StripedChunk) -> None:
        """Receives the payload of a chunk's first piece.

        Raises:
            CorruptRecordError: it does not verify. The stream stands behind it and is usable.
        """
        start, end = chunk.plan.bounds(0)
        await receive_payload(connection, chunk.obj, start, end, chunk.header.has_checksum)

    async def receive_piece(self, connection: Connection, chunk: StripedChunk, index: int) -> bool:
        """Receives piece `index` into its place in `chunk.obj`.

        Returns whether the store holds it. False, too, where it holds a piece of another put of the same chunk.

        Raises:
            CorruptRecordError: it does not verify. The stream stands behind it, or was closed because it is long.
            WrongTypeError: a whole chunk has replaced the striped one. The stream is usable.
        """
        size = await self._receive_size(connection)
        if size is None:
            return False
        start, end = chunk.plan.bounds(index)
        expected = header_of_piece(chunk.encoded, index)
        is_it = size == len(expected) + end - start + TRAILER_BYTES and chunk.obj.is_valid()
        if not is_it or await connection.stream.peek(len(expected)) != expected:
            # What it is instead is found out by decoding it. That takes longer than to compare what is right.
            header = await self._checked_header(connection, chunk.name, size)
            await self._skip(connection, size)
            if header.plan != chunk.plan:
                return False
            raise FrameError("piece", f"it is not piece {index} of the chunk")
        connection.stream.take(len(expected))
        await receive_payload(connection, chunk.obj, start, end, chunk.header.has_checksum)
        return True

    async def drop(self, connection: Connection) -> None:
        """Receives the next reply, also an error reply, and drops it. Closes the connection where it is long."""
        try:
            size = connection.number(await connection.expect(b"$", "a value"))
        except StoreError:
            if not connection.stream.is_open:
                raise
            return
        if size == -1:
            connection.pending -= 1
        elif 0 <= size <= MAX_VALUE_BYTES:
            await self._skip(connection, size)
        else:
            raise connection.broken(f"a value of {size} bytes; expected at most {MAX_VALUE_BYTES}")

    async def _begin(
        self, connection: Connection, name: str, room: ChunkRoom, slot: int
    ) -> tuple[FrameHeader, ChunkBytes] | None:
        size = await self._receive_size(connection)
        if size is None:
            return None
        header = await self._checked_header(connection, name, size)
        if header.plan is not None:
            await self._skip(connection, size)
            raise FrameError("piece", "it is a piece of a striped chunk, in the place of a whole one")
        self.last_was_striped = False
        self._likely.remember(size, header, connection.stream.buffered_view())
        connection.stream.take(header.length)
        return header, await self._make_room(connection, room, slot, header, size)

    async def _make_room(
        self, connection: Connection, room: ChunkRoom, slot: int, header: FrameHeader, size: int
    ) -> ChunkBytes:
        try:
            return await room.make(header.metadata, slot)
        except Exception:
            await self._skip(connection, size - header.length)
            raise

    async def _receive_size(self, connection: Connection) -> int | None:
        size = connection.number(await connection.expect(b"$", "a value"))
        if size == -1:
            connection.pending -= 1
            return None
        if not 0 <= size <= MAX_VALUE_BYTES:
            raise connection.broken(f"a value of {size} bytes; expected at most {MAX_VALUE_BYTES}")
        limit = self._limit + OVERHEAD_BYTES
        if size > limit:
            await self._skip(connection, size)
            raise CorruptRecordError("too_large", f"a value of {size} bytes; max_value_bytes allows {limit}")
        return size

    async def _checked_header(self, connection: Connection, name: str, size: int) -> FrameHeader:
        try:
            return await self._receive_header(connection, name, size)
        except CorruptRecordError as error:
            await self._skip(connection, size)
            if isinstance(error, SpreadChunkError):
                self.last_was_striped = False
            if error.reason == "key":
                # Either the store holds a copied record, or this connection answers another question: not again.
                connection.is_suspect = True
            raise

    async def _skip(self, connection: Connection, size: int) -> None:
        if size > MAX_SKIPPED_BYTES:
            connection.close()  # what was asked for behind it is asked for again, over another connection
            return
        await connection.stream.discard(size + 2)
        connection.pending -= 1

    async def _receive_header(self, connection: Connection, name: str, size: int) -> FrameHeader:
        if size < MIN_HEADER_BYTES + TRAILER_BYTES:
            raise CorruptRecordError("short", f"a value of {size} bytes is shorter than a record")
        length = header_length(await connection.stream.peek(8))
        if length + TRAILER_BYTES > size:
            raise FrameError("short", f"a value of {size} bytes with a header of {length}")
        return decode_header(await connection.stream.peek(length), name, size)
