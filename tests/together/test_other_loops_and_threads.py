"""Calls from several event loops and threads at the same time: each gets its own answer."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from lmcache_connect import ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.testing import RedisServer, StampedValue, ValkeyServer

from .conftest import CONFIG
from .crowd import Crowd
from .stock import KIB, MIB, SMALL, WHOLE, Stock, new_chunk

pytestmark = pytest.mark.in_turn


def call_from_a_thread(connector: ManagedConnector, stock: Stock, number: int) -> None:
    """Makes blocking calls, and checks each answer."""
    rng = random.Random(number)
    backend = connector.context.local_cpu_backend
    assert isinstance(backend, LocalCPUBackend)
    for turn in range(15):
        item = stock.any_to_get(rng)
        asyncio.run(item.check_get(connector.sync.get(item.key)))
        item = stock.any_to_look_up(rng)
        item.check_exists(connector.sync.exists(item.key))
        key = f"thread-{number}-{turn}"
        with asyncio.run(new_chunk(backend, key, 1, 4 * KIB)) as obj:
            connector.sync.put(key, obj)
            obj.byte_array[:] = b"\xaa" * obj.get_size()
        found = connector.sync.get(key)
        assert found is not None
        with found:
            asyncio.run(StampedValue.read(key, found.byte_array))
        del found
        assert connector.sync.remove(key)


def call_from_another_loop(connector: ManagedConnector, stock: Stock, number: int) -> None:
    """Runs an event loop with many calls at the same time, some of them cancelled."""
    crowd = Crowd(connector, stock, random.Random(number), prefix=f"loop-{number}-")
    asyncio.run(crowd.run(60, cancelled=30))


@pytest.mark.asyncio
async def test_calls_from_other_loops_and_threads_at_the_same_time_each_get_their_own_answer(
    server: ValkeyServer | RedisServer, backend: LocalCPUBackend
) -> None:
    async with ConnectorManager(server.url(), local_cpu_backend=backend, config=CONFIG) as manager:
        connector = manager.create_connector()
        with server.client() as client:
            stock = await Stock(SMALL + WHOLE, damaged=(4 * KIB, 64 * KIB)).fill(connector, client)
        await everywhere(connector, stock, 6, 3)
    server.flush()


def test_a_connector_with_a_loop_of_its_own_answers_threads_and_loops_alike(
    server: ValkeyServer | RedisServer, backend: LocalCPUBackend
) -> None:
    with ConnectorManager(server.url(), local_cpu_backend=backend, config=CONFIG) as manager:
        connector = manager.create_connector()
        with server.client() as client:
            stock = asyncio.run(Stock((*SMALL, 2 * MIB), damaged=(4 * KIB,)).fill(connector, client))
        asyncio.run(everywhere(connector, stock, 6, 2))
    server.flush()


async def everywhere(connector: ManagedConnector, stock: Stock, threads: int, loops: int) -> None:
    """Calls from threads, from other loops and from this one, all at the same time. Raises what a call has raised."""
    work: list[Callable[[ManagedConnector, Stock, int], None]] = [call_from_a_thread] * threads
    work += [call_from_another_loop] * loops
    begin = threading.Barrier(len(work))

    def run(number: int, call: Callable[[ManagedConnector, Stock, int], None]) -> None:
        begin.wait(10)
        call(connector, stock, number)

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(len(work)) as pool:
        calls = [loop.run_in_executor(pool, run, number, call) for number, call in enumerate(work)]
        await asyncio.gather(*calls, Crowd(connector, stock, random.Random(99)).run(150, cancelled=50))
