"""`Tidying`: gives up in the background what a call has left in the store, when the call has to end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, Final

import anyio

from lmcache_connect import ConnectorClosedError, StoreError
from lmcache_connect.transport import wait_uncancelled

_SECONDS: Final = 10.0
"""How long giving something up may take."""

_CALLER_WAITS: Final = 0.25
"""For how many seconds a call waits for it. Its deadline may have passed already."""


class Tidying:
    """Tasks that outlive the call that has begun them, for some seconds. Lives on one event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs `work` as a task of its own. Returns when it has ended, but soon in any case, also if it is cancelled.

        A failure of the store is dropped: what is left then is the work of a lifecycle rule. A caller that was
        cancelled raises that itself, after this.
        """
        # In a context of its own: the call's deadline is not that of the work.
        task = asyncio.get_running_loop().create_task(_bounded(work), context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await wait_uncancelled(task, _CALLER_WAITS)

    async def finish(self, seconds: float) -> None:
        """Waits for all tasks, and cancels those that take longer."""
        if tasks := set(self._tasks):
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=seconds)


async def _bounded(work: Coroutine[Any, Any, None]) -> None:
    with anyio.move_on_after(_SECONDS):
        try:
            await work
        except (StoreError, ConnectorClosedError):
            pass
