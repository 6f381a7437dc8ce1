"""Small and large calls on one connector: both get on. Calls are counted; nothing is timed."""

from __future__ import annotations

import asyncio
import random

import pytest

from lmcache_connect import LocalCPUBackend, ManagedConnector
from lmcache_connect.testing import RedisServer, ValkeyServer

from .crowd import TIME_LIMIT, Crowd
from .stock import KIB, MIB, SMALL, Stock, new_chunk

pytestmark = pytest.mark.asyncio


class Callers:
    """Callers that each make one call after the other until they are stopped."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        """How many calls each caller has made."""
        self._tasks: list[asyncio.Task[None]] = []
        self._is_over = False

    def add(self, count: int, call: object) -> None:
        """Adds callers of `call(number)`, an async function that is told the caller's number."""
        assert callable(call)

        async def repeat(number: int) -> None:
            while not self._is_over:
                await call(number)
                self.calls[number] += 1

        first = len(self.calls)
        self.calls += [0] * count
        self._tasks += [asyncio.ensure_future(repeat(number)) for number in range(first, first + count)]

    async def until_each_has_made(self, least: int) -> None:
        """Waits until every caller has made so many calls. Raises what a call has raised."""
        while min(self.calls) < least:
            done, _ = await asyncio.wait(self._tasks, timeout=0.01, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                await task

    async def stop(self) -> None:
        """Waits until each has ended its last call. Raises what a call has raised.

        They are not cancelled: the frames of one that is cancelled while it checks a chunk would keep the chunk's view.
        """
        self._is_over = True
        await asyncio.gather(*self._tasks)


async def test_small_callers_get_on_while_large_chunks_stream_both_ways_and_so_do_the_large_ones(
    connector: ManagedConnector, server: ValkeyServer | RedisServer
) -> None:
    with server.client() as client:
        stock = await Stock((*SMALL, 8 * MIB), damaged=()).fill(connector, client)
    large = stock.chunks.pop()
    crowd = Crowd(connector, stock, random.Random(10))
    backend = connector.context.local_cpu_backend
    assert isinstance(backend, LocalCPUBackend)
    small, streams = Callers(), Callers()
    with await new_chunk(backend, "stream", 1, 8 * MIB) as obj:

        async def put_large(_: int) -> None:
            await connector.put("stream", obj)

        streams.add(3, lambda _: crowd.get(large))
        streams.add(2, put_large)
        small.add(20, lambda number: crowd.get(stock.chunks[number % len(stock.chunks)]))
        small.add(10, lambda number: crowd.put(f"put-{number}", 4 * KIB))
        small.add(10, lambda _: connector.exists("missing-0"))
        async with asyncio.timeout(TIME_LIMIT):
            await streams.until_each_has_made(2)
            await small.until_each_has_made(10)
            made = min(streams.calls)
            await streams.until_each_has_made(made + 1)  # also after so many small ones
        assert min(small.calls) >= 10
        await asyncio.gather(streams.stop(), small.stop())


async def test_callers_of_the_same_kind_are_served_in_turn(
    connector: ManagedConnector, server: ValkeyServer | RedisServer
) -> None:
    with server.client() as client:
        stock = await Stock(SMALL, damaged=()).fill(connector, client)
    crowd = Crowd(connector, stock, random.Random(11))
    callers = Callers()
    callers.add(100, lambda number: crowd.get(stock.chunks[number % 12]))  # all of 4 KiB
    async with asyncio.timeout(TIME_LIMIT):
        await callers.until_each_has_made(20)
    await callers.stop()
    assert max(callers.calls) <= 3 * min(callers.calls), callers.calls
