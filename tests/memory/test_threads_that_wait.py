"""`allocate_sync`: a thread without an event loop that waits for room."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from lmcache_connect import ArenaExhaustedError, LocalCPUBackend, MemoryObj
from lmcache_connect.errors import AllocationTimeoutError, BackendClosedError, SyncCallOnLoopError
from lmcache_connect.memory import LayeredMemory

PAGE: Final = 4096


@pytest.fixture
def backend() -> Iterator[LocalCPUBackend]:
    with LocalCPUBackend(4 * PAGE) as backend:
        yield backend
        now = backend.statistics()
        assert (now.reserved, now.live_objects, now.waiters) == (0, 0, 0)


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as thread:
        yield thread


def new(backend: LocalCPUBackend, pages: int = 1) -> MemoryObj:
    obj = backend.allocate((pages * PAGE,), "uint8")
    assert obj is not None
    return obj


def until_waiting(backend: LocalCPUBackend, waiters: int) -> None:
    ends = time.monotonic() + 10
    while backend.statistics().waiters < waiters:
        assert time.monotonic() < ends
        time.sleep(0.001)


def test_room_that_is_there_is_given_at_once(backend: LocalCPUBackend) -> None:
    with backend.allocate_sync((2, 8, 16), "float16", timeout=0) as obj:
        assert obj.get_shape() == (2, 8, 16)


def test_a_thread_waits_until_another_releases(backend: LocalCPUBackend, thread: ThreadPoolExecutor) -> None:
    held = new(backend, 4)
    waiting = thread.submit(backend.allocate_sync, (2 * PAGE,), "uint8")
    until_waiting(backend, 1)
    held.ref_count_down()
    with waiting.result(10) as obj:
        assert obj.get_size() == 2 * PAGE


def test_threads_stand_in_one_line_with_those_who_await(backend: LocalCPUBackend, thread: ThreadPoolExecutor) -> None:
    held = new(backend, 4)
    order: list[str] = []
    taken = threading.Semaphore(0)

    def wait(name: str) -> MemoryObj:
        obj = backend.allocate_sync((4 * PAGE,), "uint8")
        order.append(name)
        taken.release()
        return obj

    async def wait_on_a_loop() -> MemoryObj:
        obj = await backend.allocate_async((4 * PAGE,), "uint8")
        order.append("loop")
        taken.release()
        return obj

    waits = [thread.submit(wait, "first")]
    until_waiting(backend, 1)
    waits.append(thread.submit(asyncio.run, wait_on_a_loop()))
    until_waiting(backend, 2)
    waits.append(thread.submit(wait, "last"))
    until_waiting(backend, 3)
    held.ref_count_down()
    for place in waits:
        assert taken.acquire(timeout=10)
        place.result(10).ref_count_down()
    assert order == ["first", "loop", "last"]


def test_a_wait_ends_at_its_timeout_with_nothing_held(backend: LocalCPUBackend) -> None:
    held = new(backend, 4)
    with pytest.raises(AllocationTimeoutError, match="waited"):
        backend.allocate_sync((PAGE,), "uint8", timeout=0.01)
    with pytest.raises(ArenaExhaustedError):
        backend.allocate_sync((5 * PAGE,), "uint8")
    held.ref_count_down()


def test_a_wait_ends_when_the_memory_is_closed(thread: ThreadPoolExecutor) -> None:
    backend = LocalCPUBackend(4 * PAGE)
    held = new(backend, 4)
    waiting = thread.submit(backend.allocate_sync, (PAGE,), "uint8")
    until_waiting(backend, 1)
    backend.close()
    with pytest.raises(BackendClosedError):
        waiting.result(10)
    held.ref_count_down()


def test_on_an_event_loop_it_is_refused_and_the_loop_of_the_thread_stays_what_it_was(backend: LocalCPUBackend) -> None:
    async def on_a_loop() -> None:
        with pytest.raises(SyncCallOnLoopError, match=r"await allocate_async\(\)"):
            backend.allocate_sync((PAGE,), "uint8")

    asyncio.run(on_a_loop())
    mine = asyncio.new_event_loop()
    asyncio.set_event_loop(mine)
    try:
        held = new(backend, 4)
        with pytest.raises(AllocationTimeoutError):
            backend.allocate_sync((PAGE,), "uint8", timeout=0.01)
        held.ref_count_down()
        assert asyncio.get_event_loop() is mine  # noqa: TID251 - what the thread was set to is the question
    finally:
        asyncio.set_event_loop(None)
        mine.close()


def test_a_memory_in_front_of_another_is_waited_for_as_well(
    backend: LocalCPUBackend, thread: ThreadPoolExecutor
) -> None:
    with LocalCPUBackend(4 * PAGE) as front:
        layered = LayeredMemory(front, backend)
        held = [new(front, 4), new(backend, 4)]
        waiting = thread.submit(layered.allocate_sync, (PAGE,), "uint8")
        until_waiting(backend, 1)
        held[1].ref_count_down()
        waiting.result(10).ref_count_down()
        held[0].ref_count_down()


def test_ctrl_c_ends_the_wait_and_leaves_nothing_in_the_line() -> None:
    program = """
import signal, threading, time
from lmcache_connect import LocalCPUBackend
backend = LocalCPUBackend(4096)
held = backend.allocate((4096,), "uint8")

def interrupt():
    while not backend.statistics().waiters:
        time.sleep(0.001)
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

threading.Thread(target=interrupt).start()
try:
    backend.allocate_sync((4096,), "uint8", timeout=20)
except KeyboardInterrupt:
    print("interrupted", backend.statistics().waiters)
held.ref_count_down()
print(backend.statistics().reserved)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.stdout, done.stderr) == ("interrupted 0\n0\n", "")
