"""Waiting that a cancellation does not cut short, for what still has a buffer in its hands."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import anyio


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
