"""`RedisOwnThread`: single calls over a connection that their caller's own thread has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from lmcache_connect import Key, MemoryObj, StoreError, key_string
from lmcache_connect.contract import CallerMemory, ChunkSize, NotInThisThreadError, OwnThreadCalls
from lmcache_connect.keys import key_strings
from lmcache_connect.streaming import Arrivals, CallersChunk, CallersRoom, ChunkBytes, RoomLine
from lmcache_connect.transport import StreamClosedError, ThreadConnections

from .layouts.layout import Layout
from .pipelines.fetch_pipeline import FetchLane
from .pipelines.lookup_pipeline import LookupCall, LookupLane
from .pipelines.store_pipeline import StoreCall, StoreLane
from .protocol.connection import Connection
from .protocol.setup import log_in_again


class RedisOwnThread(OwnThreadCalls):
    """Makes the one request of a small call, as a lane does it for a call that is alone."""

    def __init__(
        self,
        connections: ThreadConnections[Connection],
        layout: Layout,
        line: RoomLine,
        chunk_size: ChunkSize,
        lanes: tuple[LookupLane, FetchLane, StoreLane],
        lost: Callable[[StreamClosedError], StoreError],
        loop: asyncio.AbstractEventLoop,
        limit: float,
    ) -> None:
        """`lost` translates the loss of a connection. A call that moves `limit` bytes or more is not for here."""
        self._connections: Final = connections
        self._layout: Final = layout
        self._line: Final = line
        self._chunk_size: Final = chunk_size
        self._lookups, self._gets, self._puts = lanes
        self._lost: Final = lost
        self._loop: Final = loop
        self._limit: Final = limit

    def take(self, key: Key, nbytes: int | None, deadline: float) -> Connection | None:
        if nbytes is None and not self._line.is_empty:
            return None
        if (self._chunk_size.expected if nbytes is None else nbytes) >= self._limit:
            return None
        connection = self._connections.take(deadline)
        if connection is None or (login := log_in_again(connection)) is None:
            return connection
        # The thread would wait for the server before its call is counted. The event loop opens another connection,
        # which logs in with the latest credential, and makes this call meanwhile.
        login.close()
        connection.close()
        self._connections.put_back(connection)
        return None

    def put_back(self, connection: Connection) -> None:
        self._connections.put_back(connection)

    async def exists(self, connection: Connection, key: Key) -> bool:
        call = LookupCall((key,), self._encode_exists)
        try:
            await self._lookups.serve_one_request(connection, call)
        except StreamClosedError as error:
            raise self._lost(error) from error.with_traceback(None)
        call.raise_failure()
        return call.flags[0]

    def _encode_exists(self, keys: Sequence[Key]) -> bytes:
        return self._layout.encode_exists(self._layout.names_of(key_strings(keys)))

    async def get(self, connection: Connection, key: Key) -> MemoryObj | None:
        place = self._line.new_place()
        arrivals = Arrivals(1, place.new_room())
        try:
            await self._receive(connection, key, arrivals, self._chunk_size.expected)
            found: MemoryObj | None = arrivals.found[0]
            if found is not None:
                self._chunk_size.observe_in_thread(found.get_size(), self._loop)
        except BaseException:
            arrivals.release()
            self._line.forget(place)
            raise
        return found

    async def get_into(self, connection: Connection, memory: CallerMemory) -> bool:
        room = CallersRoom(memory)
        arrivals = Arrivals(1, room)
        try:
            await self._receive(connection, memory.keys[0], arrivals, memory.nbytes)
        finally:
            room.release()
        if room.unfit:
            raise NotInThisThreadError
        return arrivals.found[0] is not None

    async def _receive(self, connection: Connection, key: Key, arrivals: Arrivals, nbytes: int) -> None:
        call = self._layout.fetching(self._layout.names_of([key_string(key)]), arrivals, nbytes)
        try:
            await self._gets.serve_one_request(connection, call)
        except StreamClosedError as error:
            raise self._lost(error) from error.with_traceback(None)
        if isinstance(call.failure, StoreError):
            call.raise_failure()
        if call.failure is not None or call.unbegun() or not arrivals.is_plain:
            raise NotInThisThreadError

    async def put(self, connection: Connection, key: Key, memory_obj: MemoryObj) -> None:
        await self._send(connection, key, memory_obj)

    async def put_from(self, connection: Connection, memory: CallerMemory) -> bool:
        chunk = CallersChunk(memory.regions[0], memory.stored_as(0))
        try:
            await self._send(connection, memory.keys[0], chunk)
        finally:
            chunk.ref_count_down()
        return True

    async def _send(self, connection: Connection, key: Key, chunk: ChunkBytes) -> None:
        requests = self._layout.put_requests(self._layout.names_of([key_string(key)]), (chunk,))
        if len(requests) != 1:
            raise NotInThisThreadError
        call = StoreCall(requests)
        try:
            await self._puts.serve_one_request(connection, call)
        except StreamClosedError as error:
            raise self._lost(error) from error.with_traceback(None)
        call.raise_failure()
        if call.unbegun():
            raise NotInThisThreadError
