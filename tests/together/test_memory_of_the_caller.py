"""Chunks in memory of the caller: when a call has ended, however it ended, nothing touches that memory any more.

A proxy holds the bytes at a chosen place, or cuts them there. The call ends, the caller overwrites its memory, and then
the held bytes go on. What still reached the memory, or left it, would show.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import pytest
import pytest_asyncio

from lmcache_connect import (
    ConnectorConfig,
    ConnectorManager,
    LocalCPUBackend,
    ManagedConnector,
    OperationTimeoutError,
    StoreError,
)
from lmcache_connect.errors import SyncTimeoutError
from lmcache_connect.testing import Direction, Fault, FaultKind, FaultProxy, RcloneServer, RedisServer, ValkeyServer

from .field import Field, evenly
from .stock import MIB

pytestmark = [pytest.mark.asyncio, pytest.mark.in_turn]

KEYS: Final = ["small", "whole", "striped"]
CHUNKS: Final = [evenly(10_000, 3), evenly(MIB, 128), [*evenly(6 * MIB, 7), 1]]
AMID: Final = (0, 5, 200, 9_000, 100_000, 500_000)
"""Bytes after which a connection is held or cut: in a head, a header, a small and a large payload."""

KINDS: Final = ("loop", "thread", "whole", "lmcache", "tls-loop", "tls-thread", "s3-loop", "s3-thread")
CONFIG: Final = ConnectorConfig.load(
    operation_timeout=20, stall_timeout=20, retries=0, breaker_failures=1000, close_grace=0.1
)


class Held:
    """A connector whose bytes go through a proxy."""

    def __init__(self, connector: ManagedConnector, proxy: FaultProxy) -> None:
        self.connector = connector
        self.proxy = proxy

    def arm(self, kind: FaultKind, direction: Direction, after: int) -> None:
        self.proxy.arm(Fault(kind, direction, after_bytes=after))

    async def fired(self) -> None:
        """Waits until a connection is held."""
        assert await asyncio.to_thread(self.proxy.wait_fired, 10)

    async def get(self, memory: Field) -> list[bool]:
        return await self.connector.batched_get_into(KEYS, memory.buffers)

    async def put(self, memory: Field) -> list[bool]:
        return await self.connector.batched_put_from(KEYS, memory.buffers)

    async def release_and_check(self, memory: Field, expected: list[list[bytes]]) -> None:
        """Lets the held bytes go on, and checks that the store then has whole chunks, and `memory` is untouched."""
        self.proxy.disarm()
        other = Field(CHUNKS)
        assert await self.get(other) == [True] * len(KEYS)
        for found, wanted in zip(other.contents(), zip(*expected, strict=True), strict=True):
            assert found in wanted
        memory.check_marked()


@pytest.fixture(scope="module")
def tls_server() -> Iterator[RedisServer]:
    if not RedisServer.available():
        pytest.skip("tls_server: no redis-server on PATH")
    with RedisServer(tls=True) as running:
        yield running


@pytest.fixture
def url(request: pytest.FixtureRequest) -> Iterator[tuple[str, FaultProxy]]:
    """The URL of one way to move bytes, through a proxy."""
    kind = request.param
    if kind.startswith("s3"):
        store: RcloneServer = request.getfixturevalue("rclone_server")
        with FaultProxy(store.host, store.port) as proxy:
            found = store.url("memory", io=kind[3:], range_size=MIB, multipart_threshold=5 * MIB, part_size=5 * MIB)
            yield found.replace(f"%3A{store.port}", f"%3A{proxy.port}"), proxy
        return
    is_tls = kind.startswith("tls")
    server: RedisServer | ValkeyServer = request.getfixturevalue("tls_server" if is_tls else "valkey_server")
    server.flush()
    with FaultProxy(server.host, server.tls_port if is_tls else server.port) as proxy:
        if isinstance(server, RedisServer):
            yield f"rediss://{proxy.host}:{proxy.port}?ca_file={server.ca_file}&io={kind[4:]}", proxy
        else:
            query = {"whole": "io=thread&stripe=0", "lmcache": "layout=lmcache"}.get(kind, f"io={kind}")
            yield f"redis://{proxy.host}:{proxy.port}?{query}", proxy


@pytest_asyncio.fixture
async def held(url: tuple[str, FaultProxy]) -> AsyncIterator[Held]:
    with LocalCPUBackend(MIB) as memory:  # a chunk would not fit there: nothing of these calls does
        async with ConnectorManager(url[0], local_cpu_backend=memory, config=CONFIG) as manager:
            yield Held(manager.create_connector(), url[1])
        assert memory.statistics().live_objects == 0


async def end(call: asyncio.Future[Any]) -> None:
    """Cancels a call, and waits until it has ended."""
    call.cancel()
    await asyncio.wait((call,))
    assert call.cancelled()


@pytest.mark.parametrize("url", KINDS, indirect=True)
async def test_a_get_that_is_cancelled_amid_its_bytes_writes_nothing_afterwards(held: Held) -> None:
    memory = Field(CHUNKS)
    stored = memory.fill(1)
    assert await held.put(memory) == [True] * len(KEYS)
    for after in AMID:
        held.arm(FaultKind.STALL, Direction.TO_CLIENT, after)
        getting = asyncio.ensure_future(held.get(memory))
        await held.fired()
        await end(getting)
        memory.mark()
        await held.release_and_check(memory, [stored])


@pytest.mark.parametrize("url", KINDS, indirect=True)
async def test_a_get_whose_connection_is_reset_amid_its_bytes_writes_nothing_afterwards(held: Held) -> None:
    memory = Field(CHUNKS)
    stored = memory.fill(2)
    assert await held.put(memory) == [True] * len(KEYS)
    for after in AMID[1:]:
        held.arm(FaultKind.RESET, Direction.TO_CLIENT, after)
        with pytest.raises(StoreError) as kept:
            await held.get(memory)
        memory.mark()
        await held.release_and_check(memory, [stored])
        assert kept.tb is not None


@pytest.mark.parametrize("url", KINDS, indirect=True)
async def test_a_put_that_is_cancelled_amid_its_bytes_reads_nothing_afterwards(held: Held) -> None:
    memory = Field(CHUNKS)
    before = memory.fill(3)
    assert await held.put(memory) == [True] * len(KEYS)
    for seed, after in enumerate(AMID, 4):
        held.arm(FaultKind.STALL, Direction.TO_SERVER, after)
        new = memory.fill(seed)
        putting = asyncio.ensure_future(held.put(memory))
        await held.fired()
        await end(putting)
        memory.mark()
        await held.release_and_check(memory, [before, new])
        before = memory.fill(seed + 100)
        assert await held.put(memory) == [True] * len(KEYS)


HASTY: Final = ConnectorConfig.load(
    operation_timeout=0.5, stall_timeout=20, retries=0, breaker_failures=1000, close_grace=0.1
)


@pytest.mark.parametrize("url", ["loop", "thread", "tls-loop", "tls-thread", "s3-loop", "s3-thread"], indirect=True)
async def test_a_get_that_is_late_amid_its_bytes_writes_nothing_afterwards(held: Held, url: tuple[str, Any]) -> None:
    memory = Field(CHUNKS)
    stored = memory.fill(5)
    assert await held.put(memory) == [True] * len(KEYS)
    with LocalCPUBackend(MIB) as backend:
        async with ConnectorManager(url[0], local_cpu_backend=backend, config=HASTY) as manager:
            hasty = Held(manager.create_connector(), held.proxy)
            held.arm(FaultKind.STALL, Direction.TO_CLIENT, 500_000)
            with pytest.raises(OperationTimeoutError):
                await hasty.get(memory)
            memory.mark()
            await held.release_and_check(memory, [stored])


@pytest.mark.parametrize("size", [30_000, 6 * MIB])
async def test_a_blocking_get_that_is_late_amid_its_bytes_writes_nothing_afterwards(
    valkey_server: ValkeyServer, size: int
) -> None:
    memory = Field([evenly(size, 5)])
    [stored] = memory.fill(6)
    with FaultProxy(valkey_server.host, valkey_server.port) as proxy, LocalCPUBackend(MIB) as backend:
        url = f"redis://{proxy.host}:{proxy.port}"
        async with ConnectorManager(url, local_cpu_backend=backend, config=CONFIG) as manager:
            sync = manager.create_connector().sync

            def late(after: int) -> None:
                assert sync.put_from("k", memory.buffers[0])
                assert sync.get_into("k", memory.buffers[0])
                proxy.arm(Fault(FaultKind.STALL, Direction.TO_CLIENT, after_bytes=after))
                with pytest.raises(SyncTimeoutError):
                    sync.get_into("k", memory.buffers[0], timeout=0.3)
                memory.mark()
                proxy.disarm()
                other = Field([[size]])
                assert sync.get_into("k", other.buffers[0])
                assert other.contents() == [stored]
                memory.check_marked()
                memory.fill(6)

            for after in (0, 200, 20_000):
                await asyncio.to_thread(late, after)


@pytest.mark.parametrize("io", ["loop", "thread"])
@pytest.mark.parametrize("size", [100_000, 6 * MIB])
async def test_a_get_from_a_server_that_stops_or_dies_writes_nothing_afterwards(io: str, size: int) -> None:
    sizes = [evenly(size, 64), evenly(size, 2)]
    memory = Field(sizes)
    keys = ["a", "b"]
    with ValkeyServer() as server, LocalCPUBackend(MIB) as backend:
        url = server.url(options={"io": io})
        async with ConnectorManager(url, local_cpu_backend=backend, config=CONFIG) as manager:
            connector = manager.create_connector()
            stored = memory.fill(7)
            assert await connector.batched_put_from(keys, memory.buffers) == [True, True]
            server.pause()
            getting = asyncio.ensure_future(connector.batched_get_into(keys, memory.buffers))
            while not connector.in_flight:
                await asyncio.sleep(0)
            await end(getting)
            memory.mark()
            server.resume()
            other = Field(sizes)
            assert await connector.batched_get_into(keys, other.buffers) == [True, True]
            assert other.contents() == stored
            memory.check_marked()
            server.pause()
            getting = asyncio.ensure_future(connector.batched_get_into(keys, memory.buffers))
            await asyncio.sleep(0)
            server.kill()
            with pytest.raises(StoreError):
                await getting
            memory.mark()
            server.restart()
            assert await connector.batched_get_into(keys, other.buffers) == [False, False]
            memory.check_marked()
