"""LMCache's own records on a connection: two keys a chunk, its metadata and its payload."""

from __future__ import annotations

from typing import Final

from lmcache_connect import CorruptRecordError, StoreError
from lmcache_connect.errors import ValueTooLargeError
from lmcache_connect.record import MAX_REMOTE_METADATA_BYTES, decode_remote_metadata, encode_remote_metadata
from lmcache_connect.streaming import ChunkBytes, ChunkRoom

from ...options import RedisOptions
from ...protocol.connection import Connection
from ...protocol.replies import MAX_SKIPPED_BYTES, MAX_VALUE_BYTES, encode_expiry
from ...protocol.transaction import EXEC, MULTI, read_transaction, replies_of

METADATA_SUFFIX: Final = "metadata"
PAYLOAD_SUFFIX: Final = "kv_bytes"

_WRITES: Final = 2


def both_keys(name: str) -> tuple[bytes, bytes]:
    """Returns the keys of a chunk's metadata and of its payload."""
    return (name + METADATA_SUFFIX).encode(), (name + PAYLOAD_SUFFIX).encode()


class TwoKeyRecords:
    """Sends and receives the two-key records of one store. Holds no connection.

    Both keys are read by one command and written by one transaction, so that no reader and no writer of this kind
    ever sees the halves of two chunks as one. LMCache reads and writes them one after the other.
    """

    def __init__(self, store: str, options: RedisOptions) -> None:
        self._store = store
        self._limit = options.max_value_bytes
        self._expiry = encode_expiry(options.ttl_ms)

    # ------------------------------------------------------------------------------------------------ sending

    def check(self, obj: ChunkBytes) -> None:
        """Raises if a chunk does not fit a value, or if LMCache has no metadata for it."""
        if obj.get_size() > self._limit:
            raise ValueTooLargeError(self._store, obj.get_size(), self._limit)
        encode_remote_metadata(obj.metadata)

    async def send(self, connection: Connection, name: str, obj: ChunkBytes) -> None:
        """Sends payload and metadata in LMCache's order. The replies are for `read_stored`."""
        metadata_key, payload_key = both_keys(name)
        head = b"%b%b$%d\r\n" % (MULTI, self._set(payload_key), obj.get_size())
        metadata = encode_remote_metadata(obj.metadata)
        tail = b"\r\n%b%b$%d\r\n%b\r\n%b%b" % (
            self._expiry,
            self._set(metadata_key),
            len(metadata),
            metadata,
            self._expiry,
            EXEC,
        )
        connection.pending += replies_of(_WRITES)
        await connection.stream.send_framed(head, obj.views_of(0, obj.get_size()), None, lambda: tail)

    def _set(self, key: bytes) -> bytes:
        return b"*%d\r\n$3\r\nSET\r\n$%d\r\n%b\r\n" % (3 + self._expiry.count(b"$"), len(key), key)

    async def read_stored(self, connection: Connection) -> None:
        """Takes the replies to `send`. Raises the first error among them, and leaves the connection usable."""
        done = await read_transaction(connection, _WRITES)
        if done != [b"+OK"] * _WRITES:
            raise connection.broken(f"a transaction answers {done!r:.80}; expected OK twice")

    # ---------------------------------------------------------------------------------------------- receiving

    async def receive(self, connection: Connection, room: ChunkRoom, slot: int, copies: int) -> ChunkBytes | None:
        """Receives the chunk of the next reply, which is to MGET of `copies` times the metadata and of the payload.

        Both are those of a slot. Returns None if a half is missing.

        Raises:
            CorruptRecordError: the halves do not fit, or are too large. The stream stands behind them, or was closed
                because they are long.
            NoRoomError, ArenaExhaustedError, OtherChunkError: see `ChunkRoom.make`. As for halves that do not fit.
        """
        await self._expect_both(connection, copies)
        encoded = await self._receive_copies(connection, copies)
        size = await self._receive_size(connection)
        if encoded is None or size is None:
            # Evicted, expired, or not written yet: another writer's half is left alone.
            await self._finish(connection, size)
            return None
        if size > self._limit:
            await self._finish(connection, size)
            raise CorruptRecordError("too_large", f"a value of {size} bytes; max_value_bytes allows {self._limit}")
        try:
            metadata = decode_remote_metadata(encoded, size)
        except CorruptRecordError:
            await self._finish(connection, size)
            raise
        try:
            obj = await room.make(metadata, slot)
        except Exception:
            await self._finish(connection, size)
            raise
        try:
            stream = connection.stream
            await stream.receive_into_all(obj.views_of(0, size))
            if (end := bytes(await stream.peek(2))) != b"\r\n":
                raise connection.broken(f"a value ends with {end!r}")
            stream.take(2)
        except BaseException:
            obj.ref_count_down()
            raise
        connection.pending -= 1
        return obj

    async def drop(self, connection: Connection, copies: int) -> None:
        """Receives the next reply, also an error reply, and drops it. Closes the connection where it is long."""
        try:
            await self._expect_both(connection, copies)
            await self._receive_copies(connection, copies)
        except StoreError:
            if not connection.stream.is_open:
                raise
        except CorruptRecordError:
            pass  # it was long, and the connection is closed
        else:
            await self._finish(connection, await self._receive_size(connection))

    async def _expect_both(self, connection: Connection, copies: int) -> None:
        count = connection.number(await connection.expect(b"*", "an array"))
        if count != copies + 1:
            raise connection.broken(f"an array of {count} items; expected {copies + 1}")

    async def _receive_copies(self, connection: Connection, copies: int) -> bytes | None:
        encoded = await self._receive_metadata(connection)
        for _ in range(1, copies):
            if await self._receive_metadata(connection) != encoded:
                raise connection.broken("two copies of one value are different")
        return encoded

    async def _receive_metadata(self, connection: Connection) -> bytes | None:
        size = await self._receive_size(connection)
        if size is None:
            return None
        if size > MAX_SKIPPED_BYTES:
            connection.close()
            raise CorruptRecordError("metadata", f"a value of {size} bytes, which is another program's")
        shown = min(size, MAX_REMOTE_METADATA_BYTES + 1)  # of one that is too long, enough to see that
        encoded = bytes(await connection.stream.peek(shown))
        await connection.stream.discard(size + 2)
        return encoded

    async def _receive_size(self, connection: Connection) -> int | None:
        line = await connection.read_line()
        if line[:1] != b"$":  # not even an error: inside an array it would leave the rest of that behind
            raise connection.broken(f"{line[:40]!r} is not a value")
        size = connection.number(line)
        if size == -1:
            return None
        if not 0 <= size <= MAX_VALUE_BYTES:
            raise connection.broken(f"a value of {size} bytes; expected at most {MAX_VALUE_BYTES}")
        return size

    async def _finish(self, connection: Connection, size: int | None) -> None:
        """Ends a reply whose payload of `size` bytes is not wanted."""
        if size is not None and size > MAX_SKIPPED_BYTES:
            connection.close()  # what was asked for behind it is asked for again, over another connection
            return
        if size is not None:
            await connection.stream.discard(size + 2)
        connection.pending -= 1
