"""Waiting for a call in a thread: what comes back, and when a cancelled caller goes on."""

from __future__ import annotations

import asyncio
import threading

import anyio
import pytest

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
