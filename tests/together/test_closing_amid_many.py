"""A connector that is closed amid many calls: every call ends, and nothing is left."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from lmcache_connect import ConnectorClosedError, ConnectorManager, LocalCPUBackend
from lmcache_connect.testing import Fault, FaultKind, FaultProxy, RedisServer, ValkeyServer

from .conftest import CONFIG
from .crowd import TIME_LIMIT, Crowd
from .stock import KIB, MIB, SMALL, STRIPED, WHOLE, Stock

pytestmark = [pytest.mark.asyncio, pytest.mark.in_turn]


def descriptors() -> set[str]:
    """The sockets of this process."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the listing's own
        if target.startswith("socket:"):
            found.add(target)
    return found


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize("turns", [0, 1, 5, 40])
@pytest.mark.parametrize("grace", [0.0, 20.0])
async def test_closing_amid_many_calls_ends_each_of_them_with_its_own_answer_or_as_closed(
    server: ValkeyServer | RedisServer, backend: LocalCPUBackend, turns: int, grace: float
) -> None:
    sockets = descriptors()
    async with ConnectorManager(server.url(), local_cpu_backend=backend, config=CONFIG) as manager:
        connector = manager.create_connector()
        with server.client() as client:
            stock = await Stock(SMALL + WHOLE + STRIPED, damaged=(4 * KIB,)).fill(connector, client)
        tasks = asyncio.all_tasks()
        crowd = Crowd(connector, stock, random.Random(turns))
        calls = [asyncio.ensure_future(crowd.one(number)) for number in range(300)]
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(TIME_LIMIT):
            await connector.close(grace)
            ended = await asyncio.gather(*calls, return_exceptions=True)
        kinds = Counter(type(outcome) for outcome in ended)
        assert set(kinds) <= {type(None), ConnectorClosedError}, kinds
        assert asyncio.all_tasks() - tasks <= set(calls)
        with pytest.raises(ConnectorClosedError):
            await connector.exists("k")
        assert descriptors() <= sockets
    server.flush()


async def test_closing_ends_calls_whose_replies_never_come(
    server: ValkeyServer | RedisServer, backend: LocalCPUBackend
) -> None:
    with FaultProxy(server.host, server.port) as proxy, server.client() as client:
        url = f"redis://{proxy.host}:{proxy.port}"
        async with ConnectorManager(url, local_cpu_backend=backend, config=CONFIG) as manager:
            connector = manager.create_connector()
            stock = await Stock((*SMALL, 8 * MIB + 1), damaged=()).fill(connector, client)
            crowd = Crowd(connector, stock, random.Random(12))
            proxy.arm(Fault(FaultKind.STALL, after_bytes=10))
            calls = [asyncio.ensure_future(crowd.one(number)) for number in range(200)]
            assert await asyncio.to_thread(proxy.wait_fired, 10)
            async with asyncio.timeout(TIME_LIMIT):
                await connector.close(0.05)
                ended = await asyncio.gather(*calls, return_exceptions=True)
            kinds = Counter(type(outcome) for outcome in ended)
            assert set(kinds) <= {type(None), ConnectorClosedError}, kinds
            assert kinds[ConnectorClosedError] > 100
    server.flush()
