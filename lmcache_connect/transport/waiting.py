"""Waiting that a cancellation does not cut short: a thread may still use the caller's buffers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from ..lease import Use

T = TypeVar("T")


async def in_thread(call: Callable[[], T]) -> T:
    """Runs `call()` in a thread, and returns its result.

    A caller that is cancelled goes on when `call` has ended, and has let go of its buffers. So does one whose event
    loop has ended, and whose frames are collected.

    Raises:
        What `call` raises.
    """
    use = Use()
    claim = threading.Lock()  # by the thread, or by a caller that goes away before it begins

    def claimed() -> T:
        if not claim.acquire(blocking=False):
            raise asyncio.CancelledError
        try:
            return call()
        finally:
            use.end()

    outcome = asyncio.ensure_future(anyio.to_thread.run_sync(claimed))
    try:
        return await asyncio.shield(outcome)
    except BaseException as ended:
        if not isinstance(ended, GeneratorExit):  # after that one nothing can be awaited
            await wait_and_drop(outcome)
        raise
    finally:
        if claim.acquire(blocking=False):
            use.end()  # it never began, and never will
        use.wait()


async def wait_and_drop(outcome: asyncio.Future[Any]) -> None:
    """Waits until a thread has ended its job, however often the caller is cancelled meanwhile. Drops its outcome."""
    await wait_uncancelled(outcome)
    if not outcome.cancelled():
        outcome.exception()  # marks it as retrieved


async def wait_uncancelled(future: asyncio.Future[Any], timeout: float | None = None) -> None:
    """Waits until `future` is done, for `timeout` seconds at most. Where it is None, there is no limit.

    Cancellations meanwhile are dropped: it is for a caller that handles one, and raises it afterwards. The shield keeps
    those of anyio's scopes away, which come again in every iteration of the loop. A native one goes through any shield.
    """
    ends = None if timeout is None else time.monotonic() + timeout
    with anyio.CancelScope(shield=True):
        while not future.done():
            left = None if ends is None else ends - time.monotonic()
            if left is not None and left <= 0:
                return
            try:
                await asyncio.wait((future,), timeout=left)
            except asyncio.CancelledError:
                pass
