"""Far more gets than the arena has room for: all end, in order, and none waits for ever."""

from __future__ import annotations

import asyncio
import gc
import os
import random
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.testing import RedisServer, StampedValue, ValkeyServer

from .crowd import TIME_LIMIT
from .stock import MIB, new_chunk

_BLOCK = StampedValue.BLOCK

pytestmark = [pytest.mark.asyncio, pytest.mark.in_turn]

COUNT = 1000
KEYS = 8
OUT_OF_TURN = 200
"""Places of a thousand by which a get may end before or after its turn. Room is given in order; a thread that serves
some of them may be slower than the event loop, which serves the first in line."""
CONFIG = ConnectorConfig.load(operation_timeout=100, allocate_timeout=100, stall_timeout=20)


@pytest.fixture(params=[{"stripe": "131072"}, {"stripe": "0", "io": "loop"}], ids=["striped-auto", "whole-loop"])
def options(request: pytest.FixtureRequest) -> dict[str, str]:
    """Of the URL."""
    return dict(request.param)


@pytest.fixture
def nbytes() -> int:
    """The size of a chunk: one that is large enough for a thread."""
    return MIB


class Gets:
    """A thousand gets at the same time of chunks of which the arena holds eight."""

    def __init__(self, connector: ManagedConnector, backend: LocalCPUBackend, nbytes: int) -> None:
        self._connector = connector
        self._backend = backend
        self._nbytes = nbytes
        self._edges: dict[str, tuple[bytes, bytes]] = {}
        self._rng = random.Random(9)
        self.order: list[int] = []
        """The numbers of the gets, in the order in which they ended."""

    async def fill(self) -> None:
        """Stores the few chunks that all gets ask for."""
        for number in range(KEYS):
            key = f"k{number}"
            with await new_chunk(self._backend, key, number, self._nbytes) as obj:
                view = obj.byte_array
                self._edges[key] = bytes(view[:_BLOCK]), bytes(view[-_BLOCK:])
                del view
                await self._connector.put(key, obj)

    async def get(self, number: int, hold: float = 0.0) -> None:
        """Gets a chunk, looks at both ends of it, and holds it for some seconds."""
        key = f"k{number % KEYS}"
        found = await self._connector.get(key)
        self.order.append(number)
        assert found is not None, key
        with found:
            assert (
                bytes(found.byte_array[:_BLOCK]),
                bytes(found.byte_array[-_BLOCK:]),
            ) == self._edges[key]
            await asyncio.sleep(hold)

    async def cancel_some(self, calls: list[asyncio.Task[None]]) -> int:
        """Cancels a third of the calls, one after the other, at random. Returns how many had not ended by then."""
        cancelled = 0
        for call in self._rng.sample(calls, len(calls) // 3):
            cancelled += call.cancel()
            for _ in range(self._rng.choice((0, 0, 1, 10))):
                await asyncio.sleep(0)
        return cancelled


@pytest.fixture
def backend(nbytes: int) -> Iterator[LocalCPUBackend]:
    with LocalCPUBackend(8 * nbytes) as made:
        yield made
        gc.collect()
        held = made.statistics()
        assert (held.reserved, held.live_objects, held.leaked_objects, held.waiters) == (0, 0, 0, 0), held


@pytest_asyncio.fixture
async def gets(
    server: ValkeyServer | RedisServer, backend: LocalCPUBackend, options: dict[str, str], nbytes: int
) -> AsyncIterator[Gets]:
    async with ConnectorManager(server.url(options=options), local_cpu_backend=backend, config=CONFIG) as manager:
        made = Gets(manager.create_connector(), backend, nbytes)
        await made.fill()
        yield made
    server.flush()


def farthest(order: list[int]) -> int:
    """By how many places a get ended before or after its turn, at most."""
    return max(abs(place - turn) for place, turn in zip(map(sorted(order).index, order), range(COUNT), strict=False))


async def test_a_thousand_gets_beyond_the_arena_end_in_about_the_order_in_which_they_were_made(gets: Gets) -> None:
    async with asyncio.timeout(TIME_LIMIT):
        await asyncio.gather(*map(gets.get, range(COUNT)))
    assert sorted(gets.order) == [*range(COUNT)]
    assert farthest(gets.order) <= OUT_OF_TURN


async def test_a_thousand_gets_whose_chunks_are_held_for_a_while_end_in_about_that_order(gets: Gets) -> None:
    async with asyncio.timeout(TIME_LIMIT):
        await asyncio.gather(*[gets.get(number, hold=0.005) for number in range(COUNT)])
    assert sorted(gets.order) == [*range(COUNT)]
    assert farthest(gets.order) <= OUT_OF_TURN


async def test_where_a_third_of_a_thousand_gets_is_cancelled_all_others_end_in_about_that_order(gets: Gets) -> None:
    calls = [asyncio.ensure_future(gets.get(number, hold=0.002)) for number in range(COUNT)]
    async with asyncio.timeout(TIME_LIMIT):
        cancelled = await gets.cancel_some(calls)
        ended = await asyncio.gather(*calls, return_exceptions=True)
    assert cancelled > COUNT // 4
    assert all(outcome is None or isinstance(outcome, asyncio.CancelledError) for outcome in ended)
    assert len(gets.order) >= COUNT - cancelled
    assert farthest(gets.order) <= OUT_OF_TURN


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("options", "nbytes"), [({}, 32 * MIB)], ids=["32-mib"])
async def test_many_gets_of_32_mib_with_an_arena_of_256_mib_end_in_about_the_order_in_which_they_were_made(
    gets: Gets,
) -> None:
    count = int(os.environ.get("TOGETHER_GETS", "60"))
    async with asyncio.timeout(280):
        await asyncio.gather(*map(gets.get, range(count)))
    assert sorted(gets.order) == [*range(count)]
    assert farthest(gets.order) <= OUT_OF_TURN
