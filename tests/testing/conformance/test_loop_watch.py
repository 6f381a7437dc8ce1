"""`LoopWatch` tells how long the event loop stood still."""

from __future__ import annotations

import asyncio
import time

import pytest

from lmcache_connect.testing.loop_watch import LoopWatch

pytestmark = pytest.mark.asyncio


async def test_a_loop_that_was_blocked_shows_it(loop_watch: LoopWatch) -> None:
    async with loop_watch:
        await asyncio.sleep(0.005)
        time.sleep(0.05)  # noqa: ASYNC251
        await asyncio.sleep(0.005)
    assert 0.05 <= loop_watch.longest == max(loop_watch.gaps)
    assert loop_watch.percentile(100) == loop_watch.longest


async def test_a_block_without_a_single_turn_is_one_gap(loop_watch: LoopWatch) -> None:
    async with loop_watch:
        time.sleep(0.02)  # noqa: ASYNC251
    assert len(loop_watch.gaps) == 1
    assert loop_watch.longest >= 0.02


async def test_an_idle_loop_is_looked_at_about_every_half_millisecond(loop_watch: LoopWatch) -> None:
    for _ in range(20):
        async with loop_watch:
            await asyncio.sleep(0.1)
        if len(loop_watch.gaps) >= 20:
            break
    assert len(loop_watch.gaps) >= 20, "far fewer than the 200 that an idle machine gives: this one may be busy"
    assert loop_watch.percentile(10) >= 0.0004


async def test_a_percentile_is_the_gap_that_so_many_do_not_exceed() -> None:
    watch = LoopWatch()
    assert (watch.longest, watch.percentile(99)) == (0.0, 0.0)
    watch._gaps = [float(gap) for gap in range(100, 0, -1)]
    assert [watch.percentile(percent) for percent in (1, 50, 99, 99.5, 100)] == [1, 50, 99, 100, 100]
    for percent in (0, -1, 101):
        with pytest.raises(ValueError, match="more than 0 and at most 100"):
            watch.percentile(percent)


async def test_entering_again_begins_a_new_measurement_and_leaving_ends_it(loop_watch: LoopWatch) -> None:
    async with loop_watch:
        time.sleep(0.05)  # noqa: ASYNC251
    async with loop_watch:
        await asyncio.sleep(0.001)
    gaps = loop_watch.gaps
    await asyncio.sleep(0.005)
    assert loop_watch.gaps == gaps


async def test_a_counter_beside_the_clock_tells_its_growth_for_every_gap() -> None:
    count = 0.0

    def counter() -> float:
        return count

    async with LoopWatch(beside=counter) as watch:
        await asyncio.sleep(0.002)
        count = 3.0
        time.sleep(0.02)  # noqa: ASYNC251
        await asyncio.sleep(0.002)
    assert len(watch.grown) == len(watch.gaps)
    assert sum(watch.grown) == 3.0
    assert watch.grown[watch.gaps.index(watch.longest)] == 3.0
