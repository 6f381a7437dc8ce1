"""The pool of connections: who gets one, in which order, and what becomes of one that was released."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from lmcache_connect import StoreError, StoreUnavailableError
from lmcache_connect.errors import ConnectorClosedError
from lmcache_connect.testing import ScriptedWire
from lmcache_connect.transport import ConnectionPool, Stream, StreamClosedError

pytestmark = pytest.mark.asyncio


class Connection:
    """Reads lines. Each has a number."""

    def __init__(self, number: int, wire: ScriptedWire) -> None:
        self.number = number
        self.wire = wire
        self.stream: Stream = wire.loop_stream()
        self.is_in_step = True

    @property
    def is_reusable(self) -> bool:
        return self.is_in_step and self.stream.is_open

    def close(self) -> None:
        self.stream.close()


class Server:
    """What a pool connects to: each connection is scripted alike."""

    def __init__(self, *script: bytes) -> None:
        self.script = script
        self.connections: list[Connection] = []

    async def connect(self) -> Connection:
        self.connections.append(Connection(len(self.connections), ScriptedWire(*self.script)))
        return self.connections[-1]

    def pool(self, size: int = 2) -> ConnectionPool[Connection]:
        return ConnectionPool(size, self.connect, "the store")


async def test_a_released_connection_is_acquired_again() -> None:
    server = Server()
    pool = server.pool()
    for _ in range(3):
        async with pool.acquired() as connection:
            assert connection.number == 0
            assert connection.stream.is_open
    assert pool.open_connections == 1
    pool.close()


async def test_a_connection_that_is_used_after_its_release_raises() -> None:
    pool = Server().pool()
    async with pool.acquired() as connection:
        stream = connection.stream
    assert not connection.stream.is_open
    with pytest.raises(RuntimeError, match="this connection was released to its pool"):
        await connection.stream.send(b"PING\r\n")
    with pytest.raises(RuntimeError, match="this connection was released to its pool"):
        await connection.stream.read_until_crlf()
    connection.close()  # in vain: it is the pool's
    assert stream.is_open
    assert connection.wire.sent == b""
    async with pool.acquired() as again:
        assert again is connection
        await again.stream.send(b"PING\r\n")
    assert connection.wire.sent == b"PING\r\n"
    pool.close()
    assert not stream.is_open


async def test_a_connection_cannot_be_released_twice() -> None:
    pool = Server().pool()
    connection = await pool.acquire()
    pool.release(connection)
    with pytest.raises(KeyError):
        pool.release(connection)
    pool.close()


async def test_callers_beyond_the_size_wait_in_order() -> None:
    server = Server()
    pool = server.pool(1)
    order: list[int] = []

    async def use(caller: int) -> None:
        async with pool.acquired():
            order.append(caller)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for caller in range(5):
            group.create_task(use(caller))
        await asyncio.sleep(0)
        assert pool.waiting == 4
    assert order == [0, 1, 2, 3, 4]
    assert len(server.connections) == 1
    pool.close()


@pytest.mark.parametrize("granted", [False, True])
async def test_a_caller_that_is_cancelled_while_it_waits_leaves_its_place_to_the_next(granted: bool) -> None:
    pool = Server().pool(1)
    connection = await pool.acquire()
    first, second = (asyncio.ensure_future(pool.acquire()) for _ in range(2))
    await asyncio.sleep(0)
    if granted:
        pool.release(connection)
        first.cancel()
    else:
        first.cancel()
        await asyncio.sleep(0)
        pool.release(connection)
    assert await asyncio.wait_for(second, 1) is connection
    assert first.cancelled()
    pool.release(connection)
    pool.close()


async def test_a_connection_in_the_middle_of_a_reply_is_closed_when_it_is_released() -> None:
    server = Server()
    pool = server.pool()
    async with pool.acquired() as connection:
        connection.is_in_step = False
    assert not connection.stream.is_open
    async with pool.acquired() as another:
        assert another.number == 1
    pool.close()


@pytest.mark.parametrize("said", [b"", b"-ERR idle for too long\r\n"])
async def test_an_idle_connection_on_which_something_came_is_closed(said: bytes) -> None:
    server = Server()
    pool = server.pool()
    async with pool.acquired() as connection:
        stream = connection.stream
    server.connections[0].wire._script.pieces.append(said)
    async with pool.acquired() as another:
        assert another.number == 1
    assert not stream.is_open
    pool.close()


async def test_a_lost_connection_becomes_the_stores_error() -> None:
    pool = Server(b"").pool()
    with pytest.raises(StoreUnavailableError, match="the script closed the connection") as caught:
        async with pool.acquired() as connection:
            await connection.stream.read_until_crlf()
    assert isinstance(caught.value, StoreError)
    assert isinstance(caught.value.__cause__, StreamClosedError)
    assert caught.value.__cause__.__traceback__ is None
    assert pool.open_connections == 0


async def test_closing_the_pool_closes_every_connection_and_tells_who_waits() -> None:
    server = Server()
    pool = server.pool(2)
    first, second = await pool.acquire(), await pool.acquire()
    idle = second.stream
    waiting = [asyncio.ensure_future(pool.acquire()) for _ in range(2)]
    await asyncio.sleep(0)
    for call in waiting:
        call.cancel()
    await asyncio.wait(waiting)
    pool.release(second)
    third = await pool.acquire()
    waiting = [asyncio.ensure_future(pool.acquire())]
    await asyncio.sleep(0)
    pool.close()
    pool.close()
    with pytest.raises(ConnectorClosedError):
        await waiting[0]
    with pytest.raises(ConnectorClosedError):
        await pool.acquire()
    assert not first.stream.is_open
    assert third is second
    assert not idle.is_open
    pool.release(first)
    pool.release(third)
    assert pool.open_connections == 0


# --------------------------------------------------------------------------------------------------- renewing


class Renewing(Server):
    """A server whose connections are to be renewed before their next use, once `is_due`."""

    def __init__(self) -> None:
        super().__init__()
        self.is_due = False
        self.failure: BaseException | None = None
        self.renewed: list[int] = []
        self.gate: asyncio.Event | None = None

    def pool(self, size: int = 2) -> ConnectionPool[Connection]:
        return ConnectionPool(size, self.connect, "the store", renew=self.renew)

    def renew(self, connection: Connection) -> Awaitable[None] | None:
        return self._renew(connection) if self.is_due else None

    async def _renew(self, connection: Connection) -> None:
        self.renewed.append(connection.number)
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure


async def test_an_idle_connection_is_renewed_before_its_next_use_and_a_new_one_is_not() -> None:
    server = Renewing()
    pool = server.pool()
    server.is_due = True
    async with pool.acquired():
        assert server.renewed == []
    server.is_due = False
    async with pool.acquired():
        assert server.renewed == []
    server.is_due = True
    async with pool.acquired() as connection:
        assert server.renewed == [0]
        assert connection.number == 0
    pool.close()


@pytest.mark.parametrize("failure", [StoreError("the store", "no"), StreamClosedError("it is gone")])
async def test_a_connection_that_cannot_be_renewed_is_closed_and_another_one_is_used(failure: Exception) -> None:
    server = Renewing()
    pool = server.pool(size=1)
    async with pool.acquired():
        pass
    server.is_due, server.failure = True, failure
    async with pool.acquired() as connection:
        assert connection.number == 1
    assert not server.connections[0].wire.is_open
    assert pool.open_connections == 1
    pool.close()


async def test_a_caller_that_leaves_while_its_connection_is_renewed_closes_it_and_frees_its_place() -> None:
    server = Renewing()
    pool = server.pool(size=1)
    async with pool.acquired():
        pass
    server.is_due, server.gate = True, asyncio.Event()
    leaving = asyncio.create_task(pool.acquire())
    waiting = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert server.renewed == [0]
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert (await asyncio.wait_for(waiting, 1)).number == 1
    assert not server.connections[0].wire.is_open
    pool.close()


async def test_a_pool_that_is_closed_while_a_connection_is_renewed_raises() -> None:
    server = Renewing()
    pool = server.pool(size=1)
    async with pool.acquired():
        pass
    server.is_due, server.gate = True, asyncio.Event()
    acquiring = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    pool.close()
    server.gate.set()
    with pytest.raises(ConnectorClosedError):
        await asyncio.wait_for(acquiring, 1)
    assert pool.open_connections == 0
