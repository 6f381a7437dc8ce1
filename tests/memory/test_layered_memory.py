"""One memory in front of another one: chunks are received where a hot cache keeps them, while it has room."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

import pytest

from lmcache_connect import LocalCPUBackend, MemoryObj
from lmcache_connect.errors import AllocationTimeoutError, ArenaExhaustedError, BackendClosedError, ForeignObjectError
from lmcache_connect.memory import LayeredMemory, release_all

PAGE: Final = 4096


@pytest.fixture
def front() -> Iterator[LocalCPUBackend]:
    with LocalCPUBackend(2 * PAGE) as backend:
        yield backend
        backend.clear()
        assert backend.statistics().reserved == backend.statistics().live_objects == 0


@pytest.fixture
def back() -> Iterator[LocalCPUBackend]:
    with LocalCPUBackend(4 * PAGE) as backend:
        yield backend
        assert backend.statistics().reserved == backend.statistics().live_objects == 0


@pytest.fixture
def memory(front: LocalCPUBackend, back: LocalCPUBackend) -> LayeredMemory:
    return LayeredMemory(front, back)


def take(memory: LocalCPUBackend | LayeredMemory, pages: int = 1) -> MemoryObj:
    obj = memory.allocate((pages * PAGE,), "uint8")
    assert obj is not None
    return obj


def cache(front: LocalCPUBackend, *keys: str) -> None:
    for key in keys:
        with take(front) as obj:
            front.submit_put_task(key, obj)


def test_chunks_lie_in_front_while_there_is_room_and_then_in_the_back(
    memory: LayeredMemory, front: LocalCPUBackend, back: LocalCPUBackend
) -> None:
    objs = [take(memory) for _ in range(6)]
    assert [front.owns(obj) for obj in objs] == [True, True, False, False, False, False]
    assert all(memory.owns(obj) for obj in objs)
    assert memory.allocate((PAGE,), "uint8") is None
    release_all(objs)
    with take(memory, 3) as large:
        assert back.owns(large)


def test_what_the_front_has_cached_makes_room_before_the_back_is_used(
    memory: LayeredMemory, front: LocalCPUBackend
) -> None:
    cache(front, "a", "b")
    with take(memory) as obj:
        assert front.owns(obj)
    assert front.get_keys() == ["b"]


@pytest.mark.asyncio
@pytest.mark.parametrize("which", ["front", "back"])
async def test_an_allocation_waits_for_whichever_memory_has_room_first(
    memory: LayeredMemory, front: LocalCPUBackend, back: LocalCPUBackend, which: str
) -> None:
    objs = [take(memory) for _ in range(6)]
    waiting = asyncio.create_task(memory.allocate_async((PAGE,), "uint8", timeout=5))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    freed = objs.pop(0 if which == "front" else -1)
    freed.ref_count_down()
    with await waiting as obj:
        assert (front if which == "front" else back).owns(obj)
    release_all(objs)
    await asyncio.sleep(0)
    assert front.statistics().waiters == back.statistics().waiters == 0


@pytest.mark.asyncio
async def test_room_in_both_at_once_goes_to_one_waiter_once(
    memory: LayeredMemory, front: LocalCPUBackend, back: LocalCPUBackend
) -> None:
    objs = [take(memory) for _ in range(6)]
    waiting = asyncio.create_task(memory.allocate_async((PAGE,), "uint8", timeout=5))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    release_all(objs)
    with await waiting:
        await asyncio.sleep(0)
        assert front.statistics().live_objects + back.statistics().live_objects == 1


@pytest.mark.asyncio
async def test_a_wait_that_is_cancelled_or_too_long_holds_nothing(
    memory: LayeredMemory, front: LocalCPUBackend, back: LocalCPUBackend
) -> None:
    objs = [take(memory) for _ in range(6)]
    with pytest.raises(AllocationTimeoutError):
        await memory.allocate_async((PAGE,), "uint8", timeout=0.01)
    waiting = asyncio.create_task(memory.allocate_async((PAGE,), "uint8"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.sleep(0)
    assert front.statistics().waiters == back.statistics().waiters == 0
    release_all(objs)


@pytest.mark.asyncio
async def test_what_fits_neither_memory_is_refused_at_once(memory: LayeredMemory) -> None:
    with pytest.raises(ArenaExhaustedError):
        await memory.allocate_async((5 * PAGE,), "uint8")


@pytest.mark.asyncio
async def test_what_fits_the_front_alone_waits_for_it(front: LocalCPUBackend) -> None:
    with LocalCPUBackend(PAGE) as back:
        memory = LayeredMemory(front, back)
        held = take(front, 2)
        waiting = asyncio.create_task(memory.allocate_async((2 * PAGE,), "uint8", timeout=5))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        held.ref_count_down()
        with await waiting as obj:
            assert front.owns(obj)


@pytest.mark.asyncio
async def test_a_wait_ends_when_a_memory_is_closed(front: LocalCPUBackend, back: LocalCPUBackend) -> None:
    memory = LayeredMemory(front, back)
    objs = [take(memory) for _ in range(6)]
    waiting = asyncio.create_task(memory.allocate_async((PAGE,), "uint8"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    front.close()
    with pytest.raises(BackendClosedError):
        await waiting
    release_all(objs)


def test_the_statistics_are_the_sums_and_count_what_can_be_evicted_as_free(
    memory: LayeredMemory, front: LocalCPUBackend, back: LocalCPUBackend
) -> None:
    cache(front, "a", "b")
    held = front.get_blocking("b")
    assert held is not None
    with held, take(back):
        now = memory.statistics()
        assert (now.capacity, now.reserved, now.free) == (6 * PAGE, 2 * PAGE, 4 * PAGE)
        assert (now.cached_objects, now.largest_free) == (2, 3 * PAGE)


def test_what_lies_in_the_back_is_not_cached_and_replaces_what_was(
    memory: LayeredMemory, front: LocalCPUBackend, back: LocalCPUBackend
) -> None:
    with take(front) as obj:
        memory.submit_put_task("a", obj)
    assert memory.contains("a")
    with take(back) as obj:
        memory.submit_put_task("a", obj)
    assert not memory.contains("a")
    with LocalCPUBackend(PAGE) as other, take(other) as obj, pytest.raises(ForeignObjectError):
        memory.submit_put_task("a", obj)


def test_closing_it_closes_neither_memory(memory: LayeredMemory, front: LocalCPUBackend, back: LocalCPUBackend) -> None:
    memory.close()
    release_all([take(front), take(back)])
