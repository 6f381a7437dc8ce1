"""Noticing that the calling task was cancelled."""

from __future__ import annotations

import asyncio
import math

import anyio
import anyio.to_thread


class NativeCancellations:
    """Notices a native `task.cancel()` that an anyio scope took for its own, or that a driver made an error of.

    Where both arrive in the same turn of the loop, asyncio keeps one exception, and before anyio 4.16 the scope that is
    asked to end swallows it. The task's count of cancellations tells: anyio takes back its own.
    """

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._before = self._task.cancelling() if self._task is not None else 0

    def raise_lost(self) -> None:
        """Raises `CancelledError` for one that was lost. An enclosing anyio scope that is cancelled sees to its own."""
        if self._task is None or self._task.cancelling() <= self._before:
            return
        if anyio.current_effective_deadline() > -math.inf:
            raise asyncio.CancelledError
