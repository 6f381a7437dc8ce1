"""Other people's code in threads and tasks: deadlines hold, what is left behind is counted, and nothing is lost."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import NoReturn

import pytest

from lmcache_connect.errors import AbandonedCallsError, ConnectorFailureError
from lmcache_connect.outside import Lane, contained

pytestmark = pytest.mark.asyncio

EXITS: list[type[BaseException]] = [SystemExit, GeneratorExit, asyncio.CancelledError, BaseException, StopIteration]


def raising(kind: type[BaseException]) -> Callable[[], NoReturn]:
    def call() -> NoReturn:
        raise kind("seven")

    return call


@pytest.mark.parametrize("kind", EXITS)
async def test_what_would_end_the_process_is_a_typed_error_from_a_thread(kind: type[BaseException]) -> None:
    with pytest.raises(ConnectorFailureError, match=rf"Theirs\.get raised {kind.__name__}.*seven"):
        await Lane("store").run_in_thread("Theirs.get", raising(kind))


@pytest.mark.parametrize("kind", EXITS)
async def test_what_would_end_the_process_is_a_typed_error_from_a_task(kind: type[BaseException]) -> None:
    async def call() -> None:
        if kind is StopIteration:
            raise StopAsyncIteration("seven")  # a coroutine cannot raise the other one
        raise kind("seven")

    with pytest.raises(ConnectorFailureError, match=r"Theirs\.get raised .*seven"):
        await Lane("store").run_in_task("Theirs.get", call)


@pytest.mark.parametrize("kind", EXITS)
async def test_what_would_end_the_process_is_a_typed_error_from_a_block(kind: type[BaseException]) -> None:
    with pytest.raises(ConnectorFailureError, match=r"Theirs\.__bool__ raised"), contained("store", "Theirs.__bool__"):
        raising(kind)()


async def test_a_keyboard_interrupt_and_an_exception_pass() -> None:
    lane = Lane("store")
    with pytest.raises(KeyError):
        await lane.run_in_thread("t", raising(KeyError))
    with pytest.raises(KeyboardInterrupt), contained("store", "t"):
        raising(KeyboardInterrupt)()


async def test_a_call_in_a_thread_is_left_behind_at_once_and_counted_until_it_ends() -> None:
    lane = Lane("store")
    began, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    late: list[str] = []

    def call() -> str:
        began.set()
        assert go_on.wait(10)
        return "chunk"

    calling = asyncio.create_task(lane.run_in_thread("get", call, nbytes=7, on_late=late.append, on_end=ended.set))
    while not began.is_set():
        await asyncio.sleep(0)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert (lane.abandoned_calls, lane.abandoned_bytes) == (1, 7)
    assert not ended.is_set()
    go_on.set()
    while lane.abandoned_calls or not late:
        await asyncio.sleep(0.001)
    assert (lane.abandoned_bytes, late) == (0, ["chunk"])
    assert ended.is_set()


async def test_a_task_that_swallows_its_cancellation_is_left_behind_within_half_a_second_and_counted() -> None:
    lane = Lane("store")
    go_on = asyncio.Event()
    late: list[str] = []
    ended = threading.Event()

    async def call() -> str:
        while not go_on.is_set():
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                pass
        return "chunk"

    started = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await lane.run_in_task("get", call, nbytes=7, on_late=late.append, on_end=ended.set)
    assert time.monotonic() - started < 0.55
    assert (lane.abandoned_calls, lane.abandoned_bytes, ended.is_set()) == (1, 7, False)
    go_on.set()
    while lane.abandoned_calls or not late:
        await asyncio.sleep(0)
    assert (late, ended.is_set()) == (["chunk"], True)


async def test_a_task_that_obeys_its_cancellation_has_ended_when_its_caller_goes_on() -> None:
    lane = Lane("store")
    has_ended = False

    async def call() -> None:
        nonlocal has_ended
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            has_ended = True

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await lane.run_in_task("get", call)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await lane.run_in_task("get", call)
    assert has_ended
    assert lane.abandoned_calls == 0


async def test_further_calls_are_refused_while_too_many_hang_and_admitted_again_when_they_have_ended() -> None:
    lane = Lane("store", max_abandoned=2)
    go_on = threading.Event()
    began: list[bool] = []

    def call() -> None:
        began.append(True)
        assert go_on.wait(10)

    callers = [asyncio.create_task(lane.run_in_thread("put", call)) for _ in range(3)]
    while len(began) < 2:
        await asyncio.sleep(0)
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)
    assert lane.abandoned_calls == 2  # the third never began
    with pytest.raises(AbandonedCallsError, match="put is refused: 2 earlier calls"):
        await lane.run_in_thread("put", bool)
    with pytest.raises(AbandonedCallsError):
        await lane.run_in_task("put", lambda: asyncio.sleep(0))
    assert await Lane("another").run_in_thread("put", bool) is False
    go_on.set()
    while lane.abandoned_calls:
        await asyncio.sleep(0.001)
    assert await lane.run_in_thread("put", bool) is False


async def test_further_calls_are_refused_while_too_many_bytes_are_held() -> None:
    lane = Lane("store", max_abandoned_bytes=100)
    began, go_on = threading.Event(), threading.Event()

    def call() -> None:
        began.set()
        assert go_on.wait(10)

    caller = asyncio.create_task(lane.run_in_thread("put", call, nbytes=100))
    while not began.is_set():
        await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait((caller,))
    with pytest.raises(AbandonedCallsError, match="holding 100 bytes"):
        await lane.run_in_thread("put", bool)
    go_on.set()


async def test_more_calls_than_threads_wait_for_one_and_all_are_made() -> None:
    lane = Lane("store", max_abandoned=2)
    assert await asyncio.gather(*(lane.run_in_thread("t", partial(int, i)) for i in range(50))) == list(range(50))
    assert lane.threads <= 2


async def test_a_call_knows_the_context_of_its_caller() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")
    variable.set(7)
    assert await Lane("store").run_in_thread("t", variable.get) == 7


async def test_a_thread_keeps_nothing_of_a_call_that_has_ended() -> None:
    class Thing: ...

    lane, thing = Lane("store"), Thing()
    seen = weakref.ref(thing)
    await lane.run_in_thread("t", partial(id, thing))
    del thing
    while seen() is not None:
        gc.collect()
        await asyncio.sleep(0.001)


async def test_a_blocking_caller_is_let_go_at_its_limit() -> None:
    lane = Lane("store")
    go_on = threading.Event()
    with pytest.raises(TimeoutError):
        lane.run_blocking("import", lambda: go_on.wait(10), 0.01)
    assert lane.abandoned_calls == 1
    go_on.set()
    assert lane.run_blocking("import", lambda: 7, 10) == 7


HANGING = """
import asyncio, threading
from lmcache_connect.outside import Lane

async def stubborn():
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

async def main():
    lane = Lane("store")
    for begin in (lambda: lane.run_in_task("get", stubborn),
                  lambda: lane.run_in_thread("get", threading.Event().wait)):
        try:
            async with asyncio.timeout(0.01):
                await begin()
        except TimeoutError:
            pass
    background = asyncio.create_task(lane.run_in_task("get", stubborn))  # left to asyncio.run to cancel
    await asyncio.sleep(0.01)
    print(lane.abandoned_calls)

asyncio.run(main())
"""


async def test_neither_a_hanging_thread_nor_a_stubborn_task_keeps_the_process_alive() -> None:
    ended = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-W", "error", "-c", HANGING], capture_output=True, text=True, timeout=20
    )
    assert (ended.stdout.strip(), ended.stderr) == ("2", "")
