"""Deadlines: one timer ends every operation at its own time, and costs those that end earlier nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import anyio
import pytest
import pytest_asyncio

from lmcache_connect.managed.in_flight import InFlight
from lmcache_connect.managed.running import Running

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture(params=[True, False], ids=["by one cancellation", "by a scope"])
async def flight(request: pytest.FixtureRequest) -> InFlight:
    """Operations of a connector that ends when it is cancelled, and of one that may not."""
    flight = InFlight(asyncio.get_running_loop(), "store")
    flight.ends_when_cancelled = request.param
    return flight


async def run(flight: InFlight, seconds: float, body: Callable[[], object]) -> tuple[Running, float]:
    """An operation with that deadline, and how long it took."""
    started = time.monotonic()
    running = flight.begin(seconds)
    try:
        with running:
            if asyncio.iscoroutine(made := body()):
                await made
    finally:
        flight.end(running)
    return running, time.monotonic() - started


@pytest.mark.parametrize("order", [(0.05, 0.15, 0.25), (0.25, 0.15, 0.05), (0.15, 0.25, 0.05)])
async def test_each_operation_ends_at_its_own_deadline_whatever_order_they_begin_in(
    flight: InFlight, order: tuple[float, ...]
) -> None:
    ended = await asyncio.gather(*(run(flight, seconds, lambda: asyncio.sleep(30)) for seconds in order))
    for seconds, (running, took) in zip(order, ended, strict=True):
        assert running.is_late
        assert running.has_ended
        assert seconds - 0.01 <= took < seconds + 0.1
    assert len(flight) == 0


async def test_an_operation_that_ends_in_time_is_left_alone_and_so_is_the_next_one(flight: InFlight) -> None:
    for _ in range(3):
        running, _ = await run(flight, 0.3, lambda: asyncio.sleep(0.02))
        assert not running.is_cancelled
    running, took = await run(flight, 0.5, lambda: asyncio.sleep(30))
    assert running.is_late
    assert took >= 0.49


async def test_a_deadline_beyond_an_earlier_ones_end_is_kept(flight: InFlight) -> None:
    await run(flight, 0.03, lambda: asyncio.sleep(30))
    running, took = await run(flight, 0.08, lambda: asyncio.sleep(30))
    assert running.is_late
    assert 0.07 <= took < 0.2


async def test_a_shielded_section_is_finished_before_a_scope_ends_the_operation_at_its_deadline() -> None:
    finished = False

    async def body() -> None:
        nonlocal finished
        with anyio.CancelScope(shield=True):
            await asyncio.sleep(0.08)
            finished = True
        await asyncio.sleep(30)

    running, took = await run(InFlight(asyncio.get_running_loop(), "store"), 0.02, body)
    assert running.is_late
    assert finished
    assert took < 0.3


async def test_what_is_finished_by_a_closing_connector_is_not_late(flight: InFlight) -> None:
    stuck = asyncio.ensure_future(run(flight, 0.2, lambda: asyncio.sleep(30)))
    while not len(flight):
        await asyncio.sleep(0)
    await flight.finish(flight.drain(), 0)
    running, took = await stuck
    assert running.has_ended
    assert not running.is_late
    assert took < 0.15


async def test_a_drain_waits_for_those_that_were_under_way_and_for_no_later_ones(flight: InFlight) -> None:
    early = asyncio.ensure_future(run(flight, 5, lambda: asyncio.sleep(0.05)))
    while not len(flight):
        await asyncio.sleep(0)
    drain = flight.drain()
    late = asyncio.ensure_future(run(flight, 5, lambda: asyncio.sleep(30)))
    await asyncio.wait_for(flight.finish(drain, 1), 0.5)
    assert early.done()
    assert not late.done()
    late.cancel()
