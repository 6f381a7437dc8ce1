"""What a thread waits for: it wakes once for each ring, loses none, and keeps no descriptor too many."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from lmcache_connect.errors import SyncTimeoutError
from lmcache_connect.loop import LoopOwner
from lmcache_connect.loop.bell import Bell, _EventBell, _LockBell, bell

from .test_loop_owner import run_script


@pytest.fixture
def owner() -> Iterator[LoopOwner]:
    made = LoopOwner.start()
    yield made
    made.close_sync()


KINDS = [_LockBell, pytest.param(_EventBell, marks=pytest.mark.skipif(not hasattr(os, "eventfd"), reason="no eventfd"))]


@pytest.mark.parametrize("kind", KINDS)
def test_a_ring_before_the_wait_is_kept_and_rings_once(kind: Callable[[], Bell]) -> None:
    made = kind()
    assert not made.wait(0)
    made.ring()
    made.ring()
    assert made.wait(0)
    assert not made.wait(0.001)


@pytest.mark.parametrize("kind", KINDS)
def test_a_ring_wakes_a_thread_that_waits_long(kind: Callable[[], Bell]) -> None:
    here, there = kind(), kind()

    def answer() -> None:
        assert here.wait(30)
        there.ring()

    thread = threading.Thread(target=answer)
    thread.start()
    started = time.monotonic()
    here.ring()
    assert there.wait(30)
    assert time.monotonic() - started < 15
    thread.join()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="there is no list of descriptors here")
def test_many_threads_and_calls_that_time_out_leave_no_descriptors_behind(owner: LoopOwner) -> None:
    async def call(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    def late() -> None:
        with pytest.raises(SyncTimeoutError):
            owner.run_sync("late", 0.001, call, 3600)

    def rounds() -> None:
        with ThreadPoolExecutor(100) as threads:
            answered = [threads.submit(owner.run_sync, "call", 30, call, 0.001) for _ in range(300)]
            missed = [threads.submit(late) for _ in range(30)]
            assert {each.result(30) for each in answered} == {0.001}
            assert {each.result(30) for each in missed} == {None}

    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        rounds()
    assert len(os.listdir("/proc/self/fd")) <= before + 80  # some bells are kept


def test_a_call_is_answered_where_the_process_has_no_descriptor_left() -> None:
    done = run_script(
        """
        import asyncio, os, resource
        from lmcache_connect.loop import LoopOwner
        owner = LoopOwner.start()
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        taken = []
        try:
            while True:
                taken.append(os.dup(0))
        except OSError as error:
            print(error.strerror)
        print(owner.run_sync("here", 20, asyncio.sleep, 0.01, "answered"))
        for descriptor in taken:
            os.close(descriptor)
        owner.close_sync()
        """
    )
    assert done.stderr == ""
    assert done.stdout == "Too many open files\nanswered\n"


def test_a_bell_that_was_kept_has_not_rung(owner: LoopOwner) -> None:
    for _ in range(20):
        owner.run_sync("noop", 10, asyncio.sleep, 0)
    assert not bell().wait(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_rings_no_bell_of_its_parent() -> None:
    done = run_script(
        """
        import asyncio, os
        from lmcache_connect.loop import LoopOwner
        from lmcache_connect.loop.bell import bell
        owner = LoopOwner.start()
        owner.run_sync("call", 20, asyncio.sleep, 0.001)  # its bell is kept
        owner.close_sync()
        child = os.fork()
        if child == 0:
            bell().ring()
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        print(bell().wait(0))
        """
    )
    assert done.stderr == ""
    assert done.stdout == "0\nFalse\n"
