"""How many members a crew has, and how they end. No server is needed: the connections are not real."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

import pytest

from lmcache_connect import StoreUnavailableError
from lmcache_connect.streaming import Crew, Equipment
from lmcache_connect.transport import ConnectionPool, Couriers

from .connections import FakeConnection

pytestmark = pytest.mark.asyncio

LONG = 20.0


class Kitchen(Crew[FakeConnection]):
    """Serves dishes, each of which is a function."""

    def __init__(self, equipment: Equipment[FakeConnection], *dishes: Callable[[], Awaitable[None]]) -> None:
        super().__init__(equipment)
        self.dishes = [*dishes]
        self.used: set[FakeConnection] = set()
        self.serving = 0
        self.most = 0

    def unbegun(self) -> int:
        return len(self.dishes)

    def add(self, *dishes: Callable[[], Awaitable[None]]) -> None:
        self.dishes += dishes
        self.hire()

    async def serve(self, connection: FakeConnection) -> None:
        self.used.add(connection)
        self.serving += 1
        self.most = max(self.most, self.serving)
        try:
            while self.dishes:
                await self.dishes.pop(0)()
        finally:
            self.serving -= 1


async def connect() -> FakeConnection:
    return FakeConnection()


def pool_of(size: int) -> ConnectionPool[FakeConnection]:
    return ConnectionPool(size, connect, "fake")


async def nothing() -> None:
    pass


async def pause() -> None:
    await asyncio.sleep(0.001)


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def fail() -> None:
    raise StoreUnavailableError("fake", "gone")


@pytest.mark.parametrize(("members", "dishes", "most"), [(1, 5, 1), (3, 1, 1), (3, 2, 2), (3, 9, 3)])
async def test_a_crew_has_as_many_members_as_there_is_work_for_up_to_its_limit(
    members: int, dishes: int, most: int
) -> None:
    kitchen = Kitchen(Equipment(pool_of(8), members), *[pause] * dishes)
    await kitchen.run()
    assert (kitchen.most, len(kitchen.used), kitchen.dishes) == (most, most, [])


async def test_a_crew_without_work_uses_no_connection() -> None:
    pool = pool_of(2)
    await Kitchen(Equipment(pool, 1)).run()
    await Kitchen(Equipment(pool, 2)).run()
    assert pool.open_connections == 0


async def test_members_are_hired_for_work_that_comes_up_and_no_more_than_there_is_work_for() -> None:
    async def more() -> None:
        kitchen.add(pause)
        kitchen.add(pause)
        await pause()

    kitchen = Kitchen(Equipment(pool_of(8), 5), more)
    await kitchen.run()
    assert (kitchen.most, len(kitchen.used)) == (3, 3)


async def test_a_single_member_does_also_the_work_that_comes_up() -> None:
    async def more() -> None:
        kitchen.add(nothing, nothing)

    kitchen = Kitchen(Equipment(pool_of(8), 1), more)
    await kitchen.run()
    assert (kitchen.most, kitchen.dishes) == (1, [])


@pytest.mark.parametrize("members", [1, 3])
async def test_the_first_failure_is_raised_and_ends_the_other_members(members: int) -> None:
    pool = pool_of(3)
    kitchen = Kitchen(Equipment(pool, members), *([fail] if members == 1 else [forever, forever, fail]))
    async with asyncio.timeout(LONG):
        with pytest.raises(StoreUnavailableError, match="gone"):
            await kitchen.run()
    assert kitchen.serving == 0
    for _ in range(3):
        await pool.acquire()  # every connection was released


async def test_a_member_that_waits_for_a_connection_is_dismissed_when_everything_is_done() -> None:
    pool = pool_of(2)
    async with pool.acquired():
        kitchen = Kitchen(Equipment(pool, 2), pause, pause, pause)
        async with asyncio.timeout(LONG):
            await kitchen.run()
        assert (kitchen.most, pool.waiting) == (1, 0)


async def test_a_member_that_waits_for_a_connection_is_kept_while_another_may_find_more_work() -> None:
    pool = pool_of(2)
    kept = await pool.acquire()

    async def more() -> None:
        kitchen.dishes += [pause, pause]  # for the member that waits: nobody else is hired
        pool.release(kept)
        await pause()
        await pause()

    kitchen = Kitchen(Equipment(pool, 2), more, nothing)
    async with asyncio.timeout(LONG):
        await kitchen.run()
    assert (kitchen.most, kitchen.dishes) == (2, [])


async def test_a_cancelled_crew_has_no_member_left() -> None:
    kitchen = Kitchen(Equipment(pool_of(2), 2), forever, forever)
    running = asyncio.create_task(kitchen.run())
    while kitchen.serving < 2:
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert kitchen.serving == 0


class FakeCouriers:
    """Runs the work of each connection in a thread of its own."""

    async def run(self, connection: FakeConnection, work: Coroutine[Any, Any, None]) -> None:
        await asyncio.to_thread(self._finish, work)

    def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            work.send(None)
        except StopIteration:
            pass


async def test_members_in_threads_are_hired_for_work_that_comes_up_in_a_thread() -> None:
    together = threading.Barrier(3)

    async def meet() -> None:
        await_in_thread(together)

    async def more() -> None:
        kitchen.add(meet, meet)
        await_in_thread(together)

    kitchen = Kitchen(Equipment(pool_of(3), 3, cast(Couriers, FakeCouriers())), more)
    async with asyncio.timeout(LONG):
        await kitchen.run()
    assert len(kitchen.used) == 3


def await_in_thread(barrier: threading.Barrier) -> None:
    barrier.wait(LONG)
