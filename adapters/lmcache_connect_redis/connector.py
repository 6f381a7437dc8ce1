"""`RedisConnector`: chunks between the arena and a Redis server, without a copy in between."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from itertools import islice
from typing import Any, Final

import anyio

from lmcache_connect import (
    AllocationTimeoutError,
    ArenaExhaustedError,
    CacheMetadata,
    FrameError,
    InvalidArgumentError,
    Key,
    LocalCPUBackend,
    MemoryObj,
    RemoteConnector,
    StoreError,
    StoreUnavailableError,
    ValueTooLargeError,
    key_string,
)
from lmcache_connect.connector import Slots
from lmcache_connect.frame import (
    MIN_HEADER_BYTES,
    NO_CHECKSUM_TRAILER,
    OVERHEAD_BYTES,
    TRAILER_BYTES,
    FrameHeader,
    PayloadHasher,
    decode_header,
    encode_header,
    header_length,
)
from lmcache_connect.keys import MAX_KEY_BYTES

from .connection import Connection
from .options import RedisOptions
from .pool import ConnectionPool
from .replies import encode_command

_WINDOW_BYTES: Final = 8 << 20
"""Payload that one connection of a batch has asked for ahead: the server holds it in its output buffer."""

_WINDOW_REPLIES: Final = 64
"""Replies that one connection of a batch has outstanding at most."""

_LOOKUP_PIECE: Final = 1000
"""Commands that are encoded before the event loop gets its turn."""

_SCAN_COUNT: Final = 1000


class RedisConnector(RemoteConnector):
    """Records on one server. Made by `RedisConnectorAdapter`; lives on one event loop; connects on first use."""

    def __init__(
        self,
        *,
        connect: Callable[[], Awaitable[Connection]],
        store: str,
        local_cpu_backend: LocalCPUBackend,
        options: RedisOptions,
        allocate_timeout: float,
        config: Any = None,
        metadata: CacheMetadata | None = None,
    ) -> None:
        super().__init__(config, metadata)
        self._store = store
        self._backend = local_cpu_backend
        self._options = options
        self._allocate_timeout = allocate_timeout
        self._prefix = f"{options.prefix}:" if options.prefix else ""
        self._dial = connect
        self._transfers = ConnectionPool(options.pool_size, self._connect, store)
        # Look-ups have a connection of their own: they must not wait behind megabytes.
        self._lookups = ConnectionPool(1, self._connect, store)
        ttl = options.ttl
        self._expiry = b"" if ttl is None else b"$2\r\nPX\r\n$%d\r\n%d\r\n" % (len(str(_ms(ttl))), _ms(ttl))

    async def _connect(self) -> Connection:
        try:
            with anyio.fail_after(self._options.connect_timeout):
                return await self._dial()
        except TimeoutError:
            raise StoreUnavailableError(
                self._store, f"connecting did not finish within {self._options.connect_timeout} s"
            ) from None

    def _name(self, key: Key) -> str:
        return self._prefix + key_string(key)

    # ------------------------------------------------------------------------------------------------- look-ups

    async def ping(self) -> int:
        """0 when the server answers."""
        async with self._lookups.borrow() as connection:
            await connection.send(encode_command(b"PING"))
            await connection.read_status()
        return 0

    async def exists(self, key: Key) -> bool:
        """Whether the server holds a value under the key."""
        return (await self.batched_exists([key]))[0]

    async def batched_exists(self, keys: Sequence[Key]) -> list[bool]:
        """One round trip for all keys."""
        if not keys:
            return []
        names = [self._name(key).encode() for key in keys]
        found: list[bool] = []
        async with self._lookups.borrow() as connection:
            for start in range(0, len(names), _LOOKUP_PIECE):
                piece = names[start : start + _LOOKUP_PIECE]
                await connection.send(
                    b"".join([b"*2\r\n$6\r\nEXISTS\r\n$%d\r\n%b\r\n" % (len(name), name) for name in piece]),
                    replies=len(piece),
                )
            error: StoreError | None = None
            while connection.pending:
                flags = await _read_flags(connection)
                if flags is None:
                    try:
                        flags = [await connection.read_integer() > 0]
                    except StoreError as refused:
                        if not connection.stream.is_open:
                            raise
                        error = error or refused  # the rest is read, so that the connection stays usable
                        continue
                found += flags
            if error is not None:
                raise error
        return found

    async def remove(self, key: Key) -> bool:
        """Unlinks the key; the server frees its memory in the background."""
        async with self._lookups.borrow() as connection:
            await connection.send(encode_command(b"UNLINK", self._name(key).encode()))
            return await connection.read_integer() > 0

    async def list(self) -> list[str]:
        """Every key under the prefix."""
        return [name async for name in self.scan()]

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        """Keys under the connector's prefix that start with `prefix`. The server may name one twice."""
        pattern = _escaped(self._prefix + prefix) + "*"
        cursor = b"0"
        while True:
            async with self._lookups.borrow() as connection:
                await connection.send(
                    encode_command(
                        b"SCAN",
                        cursor,
                        b"MATCH",
                        pattern.encode(),
                        b"COUNT",
                        b"%d" % _SCAN_COUNT,
                        b"TYPE",
                        b"string",
                    )
                )
                if connection.number(await connection.expect(b"*", "an array")) != 2:
                    raise connection.broken("SCAN answers with a cursor and an array")
                cursor = await connection.read_string(20)
                # The server decides how many it looks at, and one slot of its table may hold more than asked for.
                names = await connection.read_array(1 << 20, 2 * MAX_KEY_BYTES)
                connection.pending -= 1
            for name in names:
                yield name.decode("utf-8", "replace")[len(self._prefix) :]
            if cursor == b"0":
                return

    # -------------------------------------------------------------------------------------------------- chunks

    async def get(self, key: Key) -> MemoryObj | None:
        """The chunk, received straight into the arena in one round trip; None where there is none.

        Raises:
            FrameError: the record does not verify.
        """
        name = self._name(key)
        async with self._transfers.borrow() as connection:
            await connection.send(encode_command(b"GET", name.encode()))
            return await self._receive(connection, name)

    async def batched_get(self, keys: Sequence[Key]) -> Slots:
        """One slot per key. Requests go ahead of replies, over several connections."""
        found: Slots = [None] * len(keys)
        corrupt: list[tuple[Key, FrameError]] = []
        names = [self._name(key) for key in keys]
        waiting = iter(range(len(names)))

        async def work() -> None:
            async with self._transfers.borrow() as connection:
                asked: deque[int] = deque()
                window = 2
                while True:
                    if len(asked) <= window // 2:  # by half windows: one system call for many requests
                        more = list(islice(waiting, window - len(asked)))
                        if more:
                            commands = b"".join([encode_command(b"GET", names[index].encode()) for index in more])
                            await connection.send(commands, replies=len(more))
                            asked.extend(more)
                    if not asked:
                        return
                    index = asked.popleft()
                    try:
                        obj = found[index] = await self._receive(connection, names[index])
                    except FrameError as error:
                        corrupt.append((keys[index], error))
                        continue
                    if obj is not None:
                        window = max(2, min(_WINDOW_REPLIES, _WINDOW_BYTES // obj.get_size()))

        try:
            await _in_parallel(work, min(self._options.pool_size, (len(keys) + 1) // 2))
            for key, error in corrupt:
                await self.discard_corrupt(key, error)
        except BaseException:
            for obj in found:
                if obj is not None:
                    obj.ref_count_down()
            raise
        return found

    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        """Sends the chunk straight from its memory, in one round trip."""
        async with self._transfers.borrow() as connection:
            await self._send(connection, self._name(key), memory_obj)
            await connection.read_status()

    async def batched_put(self, keys: Sequence[Key], memory_objs: Sequence[MemoryObj]) -> None:
        """Sends every chunk, each as one value, over several connections. Those before a failure are stored."""
        if len(keys) != len(memory_objs):
            raise InvalidArgumentError("memory_objs", f"{len(memory_objs)} objects for {len(keys)} keys")
        waiting = iter(list(zip(keys, memory_objs, strict=True)))

        async def work() -> None:
            async with self._transfers.borrow() as connection:
                for key, obj in waiting:
                    await self._send(connection, self._name(key), obj)
                    # One reply stays outstanding, so that the next chunk is on its way while the server answers.
                    while connection.pending > 1:
                        await connection.read_status()
                while connection.pending:
                    await connection.read_status()

        await _in_parallel(work, min(self._options.pool_size, len(keys)))

    async def close(self) -> None:
        """Closes every connection."""
        self._transfers.close()
        self._lookups.close()

    # -------------------------------------------------------------------------------------------------- inside

    async def _send(self, connection: Connection, name: str, obj: MemoryObj) -> None:
        metadata = obj.metadata
        payload = obj.byte_array
        header = encode_header(name, metadata, checksum=self._options.checksum)
        size = len(header) + len(payload) + TRAILER_BYTES
        if size > self._options.max_value_bytes:
            raise ValueTooLargeError(self._store, size, self._options.max_value_bytes)
        key = name.encode()
        head = b"*%d\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b" % (
            5 if self._expiry else 3,
            len(key),
            key,
            size,
            header,
        )
        hasher = PayloadHasher() if self._options.checksum else None

        def tail() -> bytes:
            trailer = hasher.trailer() if hasher is not None else NO_CHECKSUM_TRAILER
            return b"%b\r\n%b" % (trailer, self._expiry)

        connection.pending += 1
        await connection.stream.send_framed(head, payload, hasher, tail)

    async def _receive(self, connection: Connection, name: str) -> MemoryObj | None:
        """The value of the next reply. After a `FrameError` the stream stands behind it and is usable."""
        size = connection.number(await connection.expect(b"$", "a value"))
        if size == -1:
            connection.pending -= 1
            return None
        limit = self._options.max_value_bytes + OVERHEAD_BYTES
        if not 0 <= size <= limit:
            raise connection.broken(f"a value of {size} bytes; expected at most {limit}")
        try:
            header = await self._receive_header(connection, name, size)
        except FrameError:
            await connection.stream.discard(size + 2)
            connection.pending -= 1
            raise
        obj = self._backend.allocate_chunk(header.metadata)
        if obj is None:
            obj = await self._wait_for_room(connection, header)
        try:
            hasher = PayloadHasher() if header.has_checksum else None
            connection.stream.take(header.length)
            await connection.stream.receive_into(obj.byte_array, hasher)
            end = await connection.stream.peek(TRAILER_BYTES + 2)
            trailer, crlf = bytes(end[:TRAILER_BYTES]), bytes(end[TRAILER_BYTES:])
            connection.stream.take(TRAILER_BYTES + 2)
            if crlf != b"\r\n":
                raise connection.broken(f"a value ends with {crlf!r}")
            connection.pending -= 1
            if hasher is not None:
                hasher.verify(trailer)
        except BaseException:
            obj.ref_count_down()
            raise
        return obj

    async def _receive_header(self, connection: Connection, name: str, size: int) -> FrameHeader:
        if size < MIN_HEADER_BYTES + TRAILER_BYTES:
            raise FrameError("short", f"a value of {size} bytes is no record")
        length = header_length(await connection.stream.peek(8))
        if length + TRAILER_BYTES > size:
            raise FrameError("short", f"a value of {size} bytes with a header of {length}")
        header = decode_header(await connection.stream.peek(length), name, size)
        if header.is_striped:
            raise FrameError("striped", "the chunk is striped, which a newer release reads", removable=False)
        return header

    async def _wait_for_room(self, connection: Connection, header: FrameHeader) -> MemoryObj:
        try:
            return await self._backend.allocate_chunk_async(header.metadata, timeout=self._allocate_timeout)
        except (AllocationTimeoutError, ArenaExhaustedError):
            connection.close()  # its payload is on the wire, and there is nowhere to put it
            raise


async def _read_flags(connection: Connection) -> list[bool] | None:
    """As many `:0` and `:1` replies as are there, all at once; None where the next one is something else."""
    view = await connection.stream.peek_available(4)
    count = min(len(view) // 4, connection.pending)
    data = bytes(view[: 4 * count])
    if data[0::4] != b":" * count or data[2::4] != b"\r" * count or data[3::4] != b"\n" * count:
        count = next(
            (
                index
                for index in range(count)
                if data[4 * index] != 0x3A or data[4 * index + 2 : 4 * index + 4] != b"\r\n"
            ),
            count,
        )
        if count == 0:
            return None
        data = data[: 4 * count]
    connection.stream.take(4 * count)
    connection.pending -= count
    return [flag == 0x31 for flag in data[1::4]]


async def _in_parallel(work: Callable[[], Coroutine[Any, Any, None]], workers: int) -> None:
    """Runs `work` so many times at once; the first failure cancels the others and is raised."""
    if workers <= 1:
        return await work()
    try:
        async with anyio.create_task_group() as group:
            for _ in range(workers):
                group.start_soon(work)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _escaped(text: str) -> str:
    return "".join(f"\\{character}" if character in "*?[]\\^" else character for character in text)
