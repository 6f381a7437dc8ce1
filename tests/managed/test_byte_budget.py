"""The budget of bytes in flight: never exceeded, handed out in order, and nothing lost to a cancellation."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcache_connect.managed.byte_budget import ByteBudget

LIMIT: Final = 100


@asynccontextmanager
async def taken(budget: ByteBudget, nbytes: int) -> AsyncIterator[None]:
    await budget.acquire(nbytes)
    try:
        yield
    finally:
        budget.release(nbytes)


class Holder:
    """A task that takes a share of the budget, says when it has it, and keeps it until it is told."""

    def __init__(self, budget: ByteBudget, nbytes: int) -> None:
        self.budget = budget
        self.nbytes = nbytes
        self.holds = False
        self.done = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with taken(self.budget, self.nbytes):
            self.holds = True
            try:
                await self.done.wait()
            finally:
                self.holds = False


async def all_at_rest() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@contextmanager
def unused_at_the_end(limit: int = LIMIT) -> Iterator[ByteBudget]:
    budget = ByteBudget(limit)
    yield budget
    assert (budget.used, budget.waiting) == (0, 0)


@pytest.mark.asyncio
async def test_what_fits_is_had_at_once() -> None:
    with unused_at_the_end() as budget:
        async with taken(budget, 60):
            assert budget.used == 60
            async with taken(budget, 40):
                assert (budget.used, budget.waiting) == (100, 0)
            assert budget.used == 60


@pytest.mark.asyncio
async def test_an_error_inside_gives_the_bytes_back() -> None:
    with unused_at_the_end() as budget:
        with pytest.raises(KeyError):
            async with taken(budget, 60):
                raise KeyError


@pytest.mark.asyncio
async def test_who_comes_first_is_served_first() -> None:
    with unused_at_the_end() as budget:
        holders = [Holder(budget, 40) for _ in range(6)]
        await all_at_rest()
        for finished in range(6):
            held = [holder.holds for holder in holders]
            assert held == [finished <= index < finished + 2 for index in range(6)]
            assert budget.waiting == max(0, 4 - finished)
            holders[finished].done.set()
            await all_at_rest()


@pytest.mark.asyncio
async def test_a_small_request_does_not_overtake_a_large_one() -> None:
    with unused_at_the_end() as budget:
        first, large, small = Holder(budget, 60), None, None
        await all_at_rest()
        large = Holder(budget, 80)
        await all_at_rest()
        small = Holder(budget, 1)
        await all_at_rest()
        assert [first.holds, large.holds, small.holds] == [True, False, False]
        first.done.set()
        await all_at_rest()
        assert [large.holds, small.holds] == [True, True]
        for holder in (large, small):
            holder.done.set()
        await all_at_rest()


@pytest.mark.asyncio
async def test_a_request_for_nothing_does_not_wait_behind_transfers() -> None:
    with unused_at_the_end() as budget:
        holders = [Holder(budget, nbytes) for nbytes in (100, 50, 0)]
        await all_at_rest()
        assert [holder.holds for holder in holders] == [True, False, True]
        assert (budget.used, budget.waiting) == (100, 1)
        for holder in holders:
            holder.done.set()
        await all_at_rest()


@pytest.mark.asyncio
async def test_a_request_for_more_than_the_limit_gets_all_of_it_alone() -> None:
    with unused_at_the_end() as budget:
        small, huge, after = (Holder(budget, nbytes) for nbytes in (1, 10 * LIMIT, 1))
        await all_at_rest()
        assert [small.holds, huge.holds, after.holds] == [True, False, False]
        small.done.set()
        await all_at_rest()
        assert (huge.holds, after.holds, budget.used) == (True, False, LIMIT)
        huge.done.set()
        await all_at_rest()
        assert (after.holds, budget.used) == (True, 1)
        after.done.set()
        await all_at_rest()


@pytest.mark.asyncio
@pytest.mark.parametrize("cancelled", range(4))
async def test_a_cancelled_waiter_leaves_the_queue_intact(cancelled: int) -> None:
    with unused_at_the_end() as budget:
        first = Holder(budget, LIMIT)
        await all_at_rest()
        waiting = [Holder(budget, 60 - index) for index in range(4)]
        await all_at_rest()
        gone = waiting.pop(cancelled)
        gone.task.cancel()
        await all_at_rest()
        assert (gone.task.cancelled(), budget.used, budget.waiting) == (True, LIMIT, 3)
        first.done.set()
        for holder in waiting:
            await all_at_rest()
            assert holder.holds
            assert sum(other.holds for other in waiting) == 1
            holder.done.set()
        await all_at_rest()


@pytest.mark.asyncio
async def test_a_large_waiter_that_is_cancelled_lets_the_ones_behind_it_pass() -> None:
    with unused_at_the_end() as budget:
        first, large, small = (Holder(budget, nbytes) for nbytes in (60, 80, 40))
        await all_at_rest()
        large.task.cancel()
        await all_at_rest()
        assert [first.holds, small.holds] == [True, True]
        for holder in (first, small):
            holder.done.set()
        await all_at_rest()


@pytest.mark.asyncio
async def test_bytes_granted_to_one_who_is_cancelled_in_the_same_moment_go_to_the_next() -> None:
    with unused_at_the_end() as budget:
        first, second, third = (Holder(budget, LIMIT) for _ in range(3))
        await all_at_rest()
        first.done.set()
        while budget.waiting == 2:
            await asyncio.sleep(0)
        assert not second.holds  # granted, and not yet running
        second.task.cancel()
        await all_at_rest()
        assert (second.task.cancelled(), third.holds) == (True, True)
        third.done.set()
        await all_at_rest()


@pytest.mark.asyncio
async def test_one_who_is_cancelled_before_it_began_takes_nothing() -> None:
    with unused_at_the_end() as budget:
        holder = Holder(budget, LIMIT)
        holder.task.cancel()
        await all_at_rest()
        assert holder.task.cancelled()


@pytest.mark.asyncio
async def test_one_who_is_cancelled_while_it_holds_gives_back() -> None:
    with unused_at_the_end() as budget:
        first, second = Holder(budget, LIMIT), Holder(budget, LIMIT)
        await all_at_rest()
        first.task.cancel()
        await all_at_rest()
        assert second.holds
        second.done.set()
        await all_at_rest()


@pytest.mark.asyncio
async def test_a_deadline_around_it_takes_nothing_away() -> None:
    with unused_at_the_end() as budget:
        first = Holder(budget, LIMIT)
        await all_at_rest()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                async with taken(budget, 1):
                    raise AssertionError
        assert budget.waiting == 0
        first.done.set()
        await all_at_rest()


steps = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(0, 2 * LIMIT)),
        st.tuples(st.just("finish"), st.integers(0, 20)),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
        st.tuples(st.just("turn"), st.integers(1, 3)),
    ),
    max_size=40,
)


@given(steps)
@settings(max_examples=200, deadline=None)
def test_the_limit_is_never_exceeded_and_the_order_is_kept_whatever_happens(steps: list[tuple[str, int]]) -> None:
    async def scenario() -> None:
        budget = ByteBudget(LIMIT)
        holders: list[Holder] = []
        alive: list[Holder] = []

        def check() -> None:
            assert 0 <= budget.used <= LIMIT
            assert sum(min(holder.nbytes, LIMIT) for holder in holders if holder.holds) <= budget.used

        for action, number in steps:
            if action == "take":
                holders.append(Holder(budget, number))
                alive.append(holders[-1])
            elif action == "turn":
                for _ in range(number):
                    await asyncio.sleep(0)
                    check()
            elif alive:
                holder = alive[number % len(alive)]
                if action == "cancel":
                    alive.remove(holder)
                    holder.task.cancel()
                else:
                    holder.done.set()
            check()
        await all_at_rest()
        alive = [holder for holder in alive if not holder.task.done()]
        waiting = [not holder.holds for holder in alive if holder.nbytes]
        assert waiting == sorted(waiting), "somebody was overtaken"
        for holder in alive:
            holder.done.set()
        await asyncio.gather(*(holder.task for holder in holders), return_exceptions=True)
        assert (budget.used, budget.waiting) == (0, 0)

    asyncio.run(scenario())


@pytest.mark.asyncio
async def test_a_thread_takes_what_is_free_and_what_it_has_is_not_free() -> None:
    budget = ByteBudget(LIMIT)
    assert budget.take_in_thread(60)
    assert not budget.take_free(60)
    assert budget.take_free(40)
    assert not budget.take_in_thread(1)
    assert not budget.release_in_thread(1)
    budget.release(40)
    assert not budget.release_in_thread(60)
    assert (budget.used, budget.used_in_threads) == (0, 0)


@pytest.mark.asyncio
async def test_a_request_that_waits_for_a_thread_goes_before_further_threads() -> None:
    budget = ByteBudget(LIMIT)
    assert budget.take_in_thread(LIMIT)
    holder = Holder(budget, 60)
    await asyncio.sleep(0)
    assert budget.waiting == 1
    assert not budget.take_in_thread(1)
    assert budget.release_in_thread(1)
    assert budget.take_in_thread(0)  # a look-up does not wait behind transfers
    assert budget.release_in_thread(LIMIT)
    budget.grant()
    await asyncio.sleep(0)
    assert holder.holds
    holder.done.set()
    await holder.task


@pytest.mark.asyncio
async def test_threads_and_the_loop_together_never_exceed_the_budget() -> None:
    budget, loop = ByteBudget(LIMIT), asyncio.get_running_loop()
    held = [0]
    lock = threading.Lock()
    ends = threading.Event()

    def changed(by: int) -> None:
        with lock:
            held[0] += by
            assert held[0] <= LIMIT

    def work() -> int:
        had = 0
        while not ends.is_set():
            if budget.take_in_thread(40):
                changed(40)
                had += 1
                changed(-40)
            if budget.release_in_thread(40):
                loop.call_soon_threadsafe(budget.grant)
        return had

    threads = [loop.run_in_executor(None, work) for _ in range(3)]
    try:
        for _ in range(300):
            await asyncio.wait_for(budget.acquire(70), 10)
            changed(70)
            await asyncio.sleep(0)
            changed(-70)
            budget.release(70)
    finally:
        ends.set()
        await asyncio.gather(*threads)
    assert (budget.used, budget.used_in_threads, budget.waiting) == (0, 0, 0)
