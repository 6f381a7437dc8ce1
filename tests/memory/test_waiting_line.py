"""`allocate_async`: waiting for room, in order, and never longer than asked."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

import pytest
import pytest_asyncio

from lmcache_connect import ArenaExhaustedError, LocalCPUBackend, MemoryObj
from lmcache_connect.errors import AllocationTimeoutError, BackendClosedError, InvalidShapeError

pytestmark = pytest.mark.asyncio

PAGE: Final = 4096


@pytest_asyncio.fixture
async def backend() -> AsyncIterator[LocalCPUBackend]:
    with LocalCPUBackend(4 * PAGE) as backend:
        yield backend
        backend.clear()
        now = backend.statistics()
        assert (now.reserved, now.live_objects, now.waiters, now.leaked_objects) == (0, 0, 0, 0)


def new(backend: LocalCPUBackend, pages: int = 1) -> MemoryObj:
    obj = backend.allocate((pages * PAGE,), "uint8")
    assert obj is not None
    return obj


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def waiter(backend: LocalCPUBackend, pages: int = 1, timeout: float | None = 30) -> asyncio.Task[MemoryObj]:
    """A task that has begun to wait for room."""
    before = backend.statistics().waiters
    task = asyncio.create_task(backend.allocate_async((pages * PAGE,), "uint8", timeout=timeout))
    await until(lambda: backend.statistics().waiters > before)
    return task


async def everything_ready_has_run() -> None:
    """Everything that is ready has run."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_where_there_is_room_nobody_waits(backend: LocalCPUBackend) -> None:
    with await backend.allocate_async((4 * PAGE,), "uint8", timeout=0) as obj:
        assert (obj.get_size(), obj.get_ref_count()) == (4 * PAGE, 1)


async def test_room_is_made_by_eviction_before_anybody_waits(backend: LocalCPUBackend) -> None:
    for key in "abcd":
        with new(backend) as obj:
            backend.submit_put_task(key, obj)
    with await backend.allocate_async((4 * PAGE,), "uint8", timeout=0):
        assert backend.get_keys() == []


async def test_waiters_are_served_in_their_order(backend: LocalCPUBackend) -> None:
    held = [new(backend) for _ in range(4)]
    waiting = [await waiter(backend) for _ in range(4)]
    for index, obj in enumerate(held):
        obj.ref_count_down()
        await until(lambda: waiting[index].done())  # noqa: B023  # awaited in the same iteration
        await everything_ready_has_run()
        assert [task.done() for task in waiting] == [True] * (index + 1) + [False] * (3 - index)
    for task in waiting:
        task.result().ref_count_down()


async def test_much_room_at_once_serves_several(backend: LocalCPUBackend) -> None:
    held = new(backend, 4)
    waiting = [await waiter(backend) for _ in range(4)]
    held.ref_count_down()
    for obj in await asyncio.gather(*waiting):
        obj.ref_count_down()


async def test_a_small_request_does_not_overtake_a_large_one(backend: LocalCPUBackend) -> None:
    held = [new(backend) for _ in range(4)]
    large = await waiter(backend, 4)
    small = await waiter(backend)
    for obj in held[:3]:
        obj.ref_count_down()
        await everything_ready_has_run()
        assert not large.done()
        assert not small.done()
    held[3].ref_count_down()
    (await large).ref_count_down()
    (await small).ref_count_down()


async def test_a_newcomer_queues_behind_those_who_wait_even_if_it_would_fit(backend: LocalCPUBackend) -> None:
    held = new(backend, 2)
    large = await waiter(backend, 4)
    newcomer = await waiter(backend)
    assert backend.statistics().free == 2 * PAGE
    held.ref_count_down()
    (await large).ref_count_down()
    (await newcomer).ref_count_down()


# -------------------------------------------------------------------------------------------- the deadline


async def test_a_deadline_that_passes_tells_what_was_wanted_and_what_was_there(backend: LocalCPUBackend) -> None:
    with new(backend, 3):
        started = time.monotonic()
        with pytest.raises(AllocationTimeoutError) as caught:
            await backend.allocate_async((2 * PAGE,), "uint8", timeout=0.03)
        error = caught.value
        assert (error.requested, error.free, error.capacity) == (2 * PAGE, PAGE, 4 * PAGE)
        assert 0.03 <= error.waited <= time.monotonic() - started
        assert isinstance(error, TimeoutError)
        assert isinstance(error, MemoryError)
        assert isinstance(error, ArenaExhaustedError)
        assert "no room for 8192 bytes in the arena: 4096 of 16384 bytes are free (waited 0.0" in str(error)
        assert backend.statistics().waiters == 0


async def test_one_who_gives_up_lets_the_next_pass(backend: LocalCPUBackend) -> None:
    with new(backend, 3):
        large = await waiter(backend, 2, timeout=0.03)
        small = await waiter(backend)
        with pytest.raises(AllocationTimeoutError):
            await large
        (await small).ref_count_down()


async def test_a_deadline_of_the_callers_own_is_not_taken_for_ours(backend: LocalCPUBackend) -> None:
    with new(backend, 4):
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.02):
                await backend.allocate_async((PAGE,), "uint8", timeout=30)
        assert not isinstance(caught.value, AllocationTimeoutError)
        assert backend.statistics().waiters == 0


async def test_what_could_never_fit_is_refused_at_once(backend: LocalCPUBackend) -> None:
    with pytest.raises(ArenaExhaustedError) as caught:
        await backend.allocate_async((4 * PAGE + 1,), "uint8")
    assert not isinstance(caught.value, AllocationTimeoutError)
    assert (caught.value.requested, caught.value.free, caught.value.capacity) == (4 * PAGE + 1, 4 * PAGE, 4 * PAGE)
    with pytest.raises(InvalidShapeError):
        await backend.allocate_async((0,), "uint8")


# -------------------------------------------------------------------------------------------- cancellation


@pytest.mark.parametrize("cancelled", [0, 1, 2])
async def test_a_cancelled_waiter_leaves_the_queue_intact(backend: LocalCPUBackend, cancelled: int) -> None:
    held = [new(backend) for _ in range(4)]
    waiting = [await waiter(backend) for _ in range(3)]
    gone = waiting.pop(cancelled)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert backend.statistics().waiters == 2
    for task in waiting:
        held.pop().ref_count_down()
        (await task).ref_count_down()
    for obj in held:
        obj.ref_count_down()


async def test_room_that_a_cancelled_waiter_was_woken_for_goes_to_the_next(backend: LocalCPUBackend) -> None:
    held = new(backend, 4)
    first, second = await waiter(backend, 4), await waiter(backend, 4)
    held.ref_count_down()
    first.cancel()  # in the same iteration of the loop: it is woken and cancelled at once
    with pytest.raises(asyncio.CancelledError):
        await first
    (await second).ref_count_down()


async def test_a_waiter_that_has_got_its_room_keeps_it_though_it_is_cancelled(backend: LocalCPUBackend) -> None:
    held = new(backend, 4)
    task = await waiter(backend, 4)
    held.ref_count_down()
    await until(task.done)
    assert not task.cancel()
    task.result().ref_count_down()


async def test_a_storm_of_cancellations_loses_neither_room_nor_place_in_line(backend: LocalCPUBackend) -> None:
    for round_ in range(30):
        held = [new(backend) for _ in range(4)]
        waiting = [await waiter(backend, 1 + index % 2) for index in range(8)]
        for index, task in enumerate(waiting):
            if (index * 7 + round_) % 3 == 0:
                task.cancel()
            if index < 4:
                held[index].ref_count_down()
            if (index + round_) % 4 == 0:
                await asyncio.sleep(0)
        for task in waiting:
            try:
                (await task).ref_count_down()
            except asyncio.CancelledError:
                pass
        assert backend.statistics().waiters == 0
        assert backend.statistics().reserved == 0


# ------------------------------------------------------------------------------------------ where room comes from


async def test_a_release_in_another_thread_wakes_a_waiter(backend: LocalCPUBackend) -> None:
    held = new(backend, 4)
    task = await waiter(backend)
    await asyncio.to_thread(held.ref_count_down)
    (await task).ref_count_down()


async def test_a_view_that_is_dropped_at_last_wakes_a_waiter(backend: LocalCPUBackend) -> None:
    held = new(backend, 4)
    view = held.byte_array
    task = await waiter(backend)
    held.ref_count_down()
    await everything_ready_has_run()
    assert not task.done()
    del view
    (await task).ref_count_down()


async def test_an_object_that_is_garbage_collected_wakes_a_waiter() -> None:
    with LocalCPUBackend(4 * PAGE) as backend:
        held = [new(backend, 4)]
        task = await waiter(backend)
        with pytest.warns(ResourceWarning, match="never released"):
            held.clear()
            gc.collect()
        (await task).ref_count_down()


async def test_a_cached_chunk_that_its_last_reader_lets_go_makes_room(backend: LocalCPUBackend) -> None:
    reader = new(backend, 4)
    backend.submit_put_task("a", reader)
    task = await waiter(backend)
    reader.ref_count_down()  # the cache alone holds it now, and may evict it
    (await task).ref_count_down()
    assert backend.get_keys() == []


@pytest.mark.parametrize("unpin", [lambda backend, obj: backend.unpin("a"), lambda backend, obj: obj.unpin()])
async def test_a_cached_chunk_that_is_unpinned_makes_room(
    backend: LocalCPUBackend, unpin: Callable[[LocalCPUBackend, MemoryObj], bool]
) -> None:
    with new(backend, 4) as obj:
        backend.submit_put_task("a", obj)
    backend.pin("a")
    task = await waiter(backend)
    assert unpin(backend, obj)
    (await task).ref_count_down()


@pytest.mark.parametrize("remove", [lambda backend: backend.remove("a"), lambda backend: backend.close()])
async def test_a_chunk_that_is_removed_from_the_cache_makes_room(
    remove: Callable[[LocalCPUBackend], object],
) -> None:
    with LocalCPUBackend(4 * PAGE) as backend:
        with new(backend, 4) as obj:
            backend.submit_put_task("a", obj)
        backend.pin("a")
        task = await waiter(backend)
        remove(backend)
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        if isinstance(outcome, MemoryObj):
            outcome.ref_count_down()
        else:
            assert isinstance(outcome, BackendClosedError)


async def test_closing_the_backend_answers_everybody_who_waits() -> None:
    backend = LocalCPUBackend(4 * PAGE)
    with new(backend, 4):
        waiting = [await waiter(backend) for _ in range(3)]
        backend.close()
        for outcome in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(outcome, BackendClosedError)
        with pytest.raises(BackendClosedError):
            await backend.allocate_async((PAGE,), "uint8")
    assert backend.statistics().waiters == 0


async def test_waiters_of_several_loops_share_one_queue(backend: LocalCPUBackend) -> None:
    held = new(backend, 4)
    got: list[str] = []

    async def elsewhere() -> None:
        with await backend.allocate_async((4 * PAGE,), "uint8", timeout=30):
            got.append("elsewhere")

    thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
    thread.start()
    await until(lambda: backend.statistics().waiters == 1)
    task = await waiter(backend, 4)
    held.ref_count_down()
    with await task:
        got.append("here")
    await asyncio.to_thread(thread.join)
    assert got == ["elsewhere", "here"]


async def test_a_waiter_whose_loop_is_gone_holds_nobody_up(backend: LocalCPUBackend) -> None:
    held = new(backend, 3)
    abandoned: list[asyncio.Task[MemoryObj]] = []

    def wait_and_close_the_loop() -> None:
        loop = asyncio.new_event_loop()
        abandoned.append(loop.create_task(backend.allocate_async((4 * PAGE,), "uint8")))
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    await asyncio.to_thread(wait_and_close_the_loop)
    assert backend.statistics().waiters == 1
    with await backend.allocate_async((PAGE,), "uint8", timeout=1):
        assert backend.statistics().waiters == 0
    held.ref_count_down()
    abandoned[0]._log_destroy_pending = False  # type: ignore[attr-defined]  # what this test is about
    abandoned.clear()
    gc.collect()


async def test_four_threads_keep_a_waiting_loop_supplied() -> None:
    with LocalCPUBackend(4 * PAGE) as backend:
        stop = threading.Event()

        def take_and_release() -> None:
            while not stop.is_set():
                if (obj := backend.allocate((PAGE,), "uint8")) is not None:
                    obj.ref_count_down()

        threads = [threading.Thread(target=take_and_release) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(100):
                (await backend.allocate_async((PAGE,), "uint8", timeout=20)).ref_count_down()
        finally:
            stop.set()
            for thread in threads:
                await asyncio.to_thread(thread.join)
        now = backend.statistics()
        assert (now.reserved, now.waiters, now.live_objects) == (0, 0, 0)


async def test_while_somebody_waits_others_may_take_as_much_as_it_waits_for_and_no_more(
    backend: LocalCPUBackend,
) -> None:
    assert backend.may_pass(100 * PAGE)
    held = new(backend, 2)
    waiting = await waiter(backend, 4)
    assert [backend.may_pass(PAGE) for _ in range(6)] == [True] * 4 + [False] * 2
    held.ref_count_down()
    (await waiting).ref_count_down()
    assert backend.may_pass(100 * PAGE)
