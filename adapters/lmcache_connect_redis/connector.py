"""`RedisConnector`: chunks between the arena and a Redis server, without a copy in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

import anyio

from lmcache_connect import (
    CacheMetadata,
    ChunkMemory,
    Key,
    MemoryObj,
    RemoteConnector,
    StoreError,
    StoreUnavailableError,
    key_string,
)
from lmcache_connect.contract import Slots
from lmcache_connect.errors import InvalidArgumentError
from lmcache_connect.keys import MAX_KEY_BYTES, key_strings
from lmcache_connect.streaming import PlaceInLine, RoomLine
from lmcache_connect.transport import ConnectionPool, Couriers

from .announcements import Announcements
from .layouts.framed.layout import FramedLayout
from .layouts.layout import Layout
from .layouts.two_key.layout import TwoKeyLayout
from .options import RedisOptions
from .protocol.connection import Connection, lost_connection
from .protocol.replies import encode_command
from .schedule import FetchSchedule

_LOOKUP_PIECE: Final = 250
"""Keys that are encoded before the event loop gets its turn, and the server its work: both go on side by side."""

LARGE_BYTES: Final = 1 << 20
"""A call that moves less uses one connection: it is over before further ones, or a thread, would have begun."""

Names = list[str]
Documents = list[bytes]

_TIDY_SECONDS: Final = 1.0
"""How long a failed put may take to free what it has left."""

_SCAN_COUNT: Final = 1000

_SCAN_BYTES: Final = 64 << 20
"""What one answer to SCAN may hold in all."""


class RedisConnector(RemoteConnector):
    """Records on one server. Made by `RedisConnectorAdapter`; lives on one event loop; connects on first use.

    Calls that move `threads_from` bytes or more have a thread move them, which takes over their connections.
    """

    def __init__(
        self,
        *,
        connect: Callable[[], Awaitable[Connection]],
        store: str,
        local_cpu_backend: ChunkMemory,
        options: RedisOptions,
        allocate_timeout: float,
        threads_from: float,
        config: Any = None,
        metadata: CacheMetadata | None = None,
    ) -> None:
        super().__init__(config, metadata)
        self._store = store
        self._options = options
        self._prefix = f"{options.prefix}:" if options.prefix else ""
        self._dial = connect
        self._transfers = ConnectionPool(options.pool_size, self._connect, store, lost_connection)
        # Look-ups have a connection of their own: they must not wait behind megabytes.
        self._lookups = ConnectionPool(1, self._connect, store, lost_connection)
        # Opened when the arena is full: the get that waits for room keeps no connection from those who hold it.
        self._when_first = ConnectionPool(options.pool_size, self._connect, store, lost_connection)
        self._line = RoomLine(local_cpu_backend, allocate_timeout)
        self._announcements = Announcements(self._prefix)
        self._couriers = Couriers()
        self._threads_from = threads_from
        # Until one is seen: unknown chunks are large, as a rule.
        self._chunk_bytes = metadata.full_chunk_bytes if metadata is not None else LARGE_BYTES
        made = TwoKeyLayout if options.layout == "lmcache" else FramedLayout
        self._layout: Layout = made(store, options)

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

    def _piece_of_names(self, keys: Sequence[Key]) -> Names:
        names = key_strings(keys)
        return [self._prefix + name for name in names] if self._prefix else names

    # ------------------------------------------------------------------------------------------------- look-ups

    async def ping(self) -> int:
        """0 when the server answers."""
        async with self._lookups.acquired() as connection:
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
        found: list[bool] = []
        there = self._layout.keys_each
        async with self._lookups.acquired() as connection:
            for start in range(0, len(keys), _LOOKUP_PIECE):
                if start:
                    await asyncio.sleep(0)
                piece = [name.encode() for name in self._piece_of_names(keys[start : start + _LOOKUP_PIECE])]
                await connection.send(self._layout.encode_exists(piece), replies=len(piece))
            error: StoreError | None = None
            while connection.pending:
                flags = await _read_flags(connection, there)
                if flags is None:
                    try:
                        flags = [await connection.read_integer() == there]
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
        """Unlinks what the key stands for; the server frees its memory in the background."""
        async with self._lookups.acquired() as connection:
            return await self._layout.remove(connection, self._name(key))

    async def list(self) -> list[str]:
        """Every key under the prefix."""
        return list(dict.fromkeys([name async for name in self.scan()]))

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        """Keys under the connector's prefix that start with `prefix`. The server may name one twice."""
        pattern = self._layout.listed_pattern(_escaped(self._prefix + prefix) + "*")
        cursor = b"0"
        while True:
            async with self._lookups.acquired() as connection:
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
                names = await connection.read_array(_SCAN_BYTES, 2 * MAX_KEY_BYTES)
                connection.pending -= 1
            for raw in names:
                name = self._layout.listed_name(raw.decode("utf-8", "replace"))
                if name is not None:
                    yield name[len(self._prefix) :]
            if cursor == b"0":
                return

    # -------------------------------------------------------------------------------------------- announcements

    async def announce(self, worker: str, document: bytes, ttl: float) -> None:
        """Keeps a worker's document on the server, which forgets it after `ttl` seconds."""
        async with self._lookups.acquired() as connection:
            await self._announcements.put(connection, worker, document, ttl)

    async def withdraw(self, worker: str) -> None:
        """Removes a worker's document."""
        async with self._lookups.acquired() as connection:
            await self._announcements.remove(connection, worker)

    async def announced(self) -> Documents:
        """The documents of the workers under this prefix that the server has not forgotten."""
        async with self._lookups.acquired() as connection:
            return await self._announcements.read(connection)

    # -------------------------------------------------------------------------------------------------- chunks

    async def get(self, key: Key) -> MemoryObj | None:
        """The chunk, received straight into the arena; None where there is none. One round trip, two where striped.

        Raises:
            CorruptRecordError: the record does not verify.
        """
        fetching = await self._fetch([self._name(key)])
        if 0 in fetching.corrupt:
            raise fetching.corrupt[0]
        return fetching.found[0]

    async def batched_get(self, keys: Sequence[Key]) -> Slots:
        """One slot per key. Requests go ahead of replies, over several connections."""
        fetching = await self._fetch(await self._names(keys))
        try:
            for slot, error in fetching.corrupt.items():
                await self.discard_corrupt(keys[slot], error)
        except BaseException:
            fetching.release()
            raise
        return fetching.found

    async def _names(self, keys: Sequence[Key]) -> Names:
        names: Names = []
        for start in range(0, len(keys), _LOOKUP_PIECE):
            if start:
                await asyncio.sleep(0)
            names += self._piece_of_names(keys[start : start + _LOOKUP_PIECE])
        return names

    async def _fetch(self, names: Sequence[str]) -> FetchSchedule[Any]:
        nbytes = len(names) * self._chunk_bytes

        async def attempt(place: PlaceInLine) -> FetchSchedule[Any]:
            pool = self._when_first if place.is_first else self._transfers
            fetching = self._layout.fetching(pool, self._workers(nbytes), names, place)
            try:
                # Who waits for room in the arena waits on the loop.
                if nbytes >= self._threads_from and not place.is_first:
                    await fetching.run_in_thread(self._couriers)
                else:
                    await fetching.run()
            except BaseException:
                fetching.release()
                raise
            return fetching

        fetching = await self._line.serve(attempt)
        self._chunk_bytes = next((obj.get_size() for obj in fetching.found if obj), self._chunk_bytes)
        return fetching

    def _workers(self, nbytes: int) -> int:
        return self._options.pool_size if nbytes >= LARGE_BYTES else 1

    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        """Sends the chunk straight from its memory."""
        await self.batched_put([key], [memory_obj])

    async def batched_put(self, keys: Sequence[Key], memory_objs: Sequence[MemoryObj]) -> None:
        """Sends every chunk. When it fails, some are stored, each of them whole."""
        if len(keys) != len(memory_objs):
            raise InvalidArgumentError("memory_objs", f"{len(memory_objs)} objects for {len(keys)} keys")
        names = await self._names(keys)
        nbytes = sum(obj.get_size() for obj in memory_objs)
        storing = self._layout.storing(self._transfers, self._workers(nbytes), names, memory_objs)
        try:
            if nbytes >= self._threads_from:
                await storing.run_in_thread(self._couriers)
            else:
                await storing.run()
        except StoreError:
            await self._unlink(storing.staged())
            raise

    async def _unlink(self, names: Sequence[str]) -> None:
        """Frees what a failed put has left, if the store lets us: it goes away by itself as well."""
        if not names:
            return
        try:
            with anyio.move_on_after(_TIDY_SECONDS):
                async with self._lookups.acquired() as connection:
                    commands = [encode_command(b"UNLINK", name.encode()) for name in names]
                    await connection.send(b"".join(commands), replies=len(commands))
                    while connection.pending:
                        await connection.read_integer()
        except StoreError:
            pass

    async def close(self) -> None:
        """Closes every connection."""
        self._couriers.close()
        self._transfers.close()
        self._when_first.close()
        self._lookups.close()


async def _read_flags(connection: Connection, there: int) -> list[bool] | None:
    """As many one-digit numbers as are there, all at once, and which of them are `there`; None for another reply."""
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
    digit = 0x30 + there
    return [flag == digit for flag in data[1::4]]


def _escaped(text: str) -> str:
    return "".join(f"\\{character}" if character in "*?[]\\^" else character for character in text)
