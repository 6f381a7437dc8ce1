"""A call that is answered returns, although another call's reply is stalled."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from lmcache_connect import ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.testing import Direction, Fault, FaultKind, FaultProxy, RedisServer, ValkeyServer

from .conftest import CONFIG
from .crowd import TIME_LIMIT, Crowd
from .stock import KIB, MIB, SMALL, Item, Stock

pytestmark = [pytest.mark.asyncio, pytest.mark.in_turn]


@pytest.fixture
def proxy(server: ValkeyServer | RedisServer) -> FaultProxy:
    return FaultProxy(server.host, server.port)


@pytest_asyncio.fixture
async def connector(proxy: FaultProxy, backend: LocalCPUBackend) -> AsyncIterator[ManagedConnector]:
    with proxy:
        url = f"redis://{proxy.host}:{proxy.port}"
        async with ConnectorManager(url, local_cpu_backend=backend, config=CONFIG) as manager:
            yield manager.create_connector()


async def stalled_get(connector: ManagedConnector, proxy: FaultProxy, item: Item) -> asyncio.Task[None]:
    """A get whose reply stops in its middle, and that has received what came until then."""

    async def get() -> None:
        await item.check_get(await connector.get(item.key))

    proxy.arm(Fault(FaultKind.STALL, after_bytes=MIB, count=1))
    getting = asyncio.ensure_future(get())
    assert await asyncio.to_thread(proxy.wait_fired, 10)
    return getting


async def test_small_calls_return_while_a_large_reply_before_them_is_stalled(
    connector: ManagedConnector, proxy: FaultProxy, server: ValkeyServer | RedisServer
) -> None:
    with server.client() as client:
        stock = await Stock((*SMALL, 32 * MIB), damaged=(4 * KIB,)).fill(connector, client)
    large = stock.chunks.pop()
    getting = await stalled_get(connector, proxy, large)
    crowd = Crowd(connector, stock, random.Random(3))
    async with asyncio.timeout(TIME_LIMIT):
        await asyncio.gather(*[crowd.get(item) for item in stock.items * 5])
        for item in stock.items:
            if item not in stock.damaged:
                item.check_exists(await connector.exists(item.key))
    assert not getting.done()
    proxy.disarm()
    await getting


async def test_small_calls_return_although_a_large_reply_behind_them_is_stalled(
    connector: ManagedConnector, proxy: FaultProxy, server: ValkeyServer | RedisServer
) -> None:
    with server.client() as client:
        stock = await Stock((*SMALL, 32 * MIB), damaged=()).fill(connector, client)
    large = stock.chunks.pop()
    crowd = Crowd(connector, stock, random.Random(4))
    proxy.arm(Fault(FaultKind.STALL, after_bytes=16 * MIB, count=1))
    small = [asyncio.ensure_future(crowd.get(item)) for item in stock.chunks]
    getting = asyncio.ensure_future(crowd.get(large))  # in the same turn of the loop
    assert await asyncio.to_thread(proxy.wait_fired, 10)
    async with asyncio.timeout(TIME_LIMIT):
        await asyncio.gather(*small)
    assert not getting.done()
    proxy.disarm()
    await getting


async def test_large_gets_go_on_while_the_reply_of_another_one_is_stalled(
    connector: ManagedConnector, proxy: FaultProxy, server: ValkeyServer | RedisServer
) -> None:
    with server.client() as client:
        stock = await Stock((5 * MIB, 8 * MIB + 1, 2 * MIB, 32 * MIB), damaged=()).fill(connector, client)
    large = stock.chunks.pop()
    getting = await stalled_get(connector, proxy, large)
    crowd = Crowd(connector, stock, random.Random(5))
    async with asyncio.timeout(TIME_LIMIT):
        await asyncio.gather(*[crowd.get(item) for item in stock.chunks * 4])
    assert not getting.done()
    proxy.disarm()
    await getting


async def test_gets_go_on_while_a_put_is_stalled_and_puts_while_a_get_is(
    connector: ManagedConnector, proxy: FaultProxy, server: ValkeyServer | RedisServer
) -> None:
    with server.client() as client:
        stock = await Stock((*SMALL, 8 * MIB + 1), damaged=()).fill(connector, client)
    large = stock.chunks.pop()
    crowd = Crowd(connector, stock, random.Random(6))
    for direction in Direction:
        proxy.arm(Fault(FaultKind.STALL, direction, after_bytes=MIB, count=1))
        if direction is Direction.TO_CLIENT:
            stalled = asyncio.ensure_future(crowd.get(large))
        else:
            stalled = asyncio.ensure_future(crowd.put("stalled", 8 * MIB))
        assert await asyncio.to_thread(proxy.wait_fired, 10)
        async with asyncio.timeout(TIME_LIMIT):
            calls = [crowd.put(f"put-{number}", 64 * KIB) for number in range(20)]
            await asyncio.gather(*calls, *[crowd.get(item) for item in stock.chunks])
        assert not stalled.done()
        proxy.disarm()
        await stalled
