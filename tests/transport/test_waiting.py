"""Waiting for a call in a thread: what comes back, and when a cancelled caller goes on."""

from __future__ import annotations

import asyncio
import threading
import time

import anyio
import pytest

from lmcache_connect.errors import ReleasedObjectError
from lmcache_connect.lease import Lease, under
from lmcache_connect.transport import in_thread

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("by", ["task", "scope"])
async def test_a_caller_that_is_cancelled_while_a_thread_reads_waits_until_it_has_let_go(by: str) -> None:
    began, go_on = threading.Event(), threading.Event()
    has_ended = False

    def read() -> None:
        nonlocal has_ended
        began.set()
        assert go_on.wait(10)
        has_ended = True

    async def call() -> None:
        with anyio.CancelScope() as scope:
            if by == "scope":
                asyncio.get_running_loop().call_soon(scope.cancel)
            await in_thread(read)

    calling = asyncio.create_task(call())
    while not began.is_set():
        await asyncio.sleep(0)
    if by == "task":
        calling.cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not calling.done()
    go_on.set()
    await asyncio.wait((calling,))
    assert has_ended
    assert calling.cancelled() is (by == "task")


async def test_what_a_thread_raises_comes_to_its_caller() -> None:
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await in_thread(fail)


async def test_a_caller_whose_coroutine_is_closed_goes_on_when_the_thread_has_ended() -> None:
    began = threading.Event()
    has_ended = False

    def read() -> None:
        nonlocal has_ended
        began.set()
        time.sleep(0.05)  # the caller blocks the event loop meanwhile, so that nothing else could end it
        has_ended = True

    call = in_thread(read)
    call.send(None)
    while not began.is_set():
        await asyncio.sleep(0)
    call.close()
    assert has_ended


async def test_a_call_whose_caller_went_away_before_it_began_never_begins() -> None:
    began = threading.Event()
    call = in_thread(began.set)
    call.send(None)
    call.close()
    await asyncio.sleep(0)  # here the thread would begin
    assert await in_thread(began.is_set) is False


async def test_a_recalled_lease_refuses_what_a_thread_would_do_under_it() -> None:
    lease, went_on = Lease(), threading.Event()
    with under(lease):
        waiting = asyncio.create_task(in_thread(lambda: went_on.wait(10)))
    while lease.is_idle:
        await asyncio.sleep(0)
    lease.recall()
    assert not lease.is_idle
    with under(lease), pytest.raises(ReleasedObjectError):
        await in_thread(went_on.set)
    went_on.set()
    assert await waiting
    assert lease.is_idle
