"""`Lifetime`: how the connector inside a managed one is closed, and how another one takes its place."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import anyio

from ..contract import RemoteConnector
from ..observability import event
from .drain import Drain
from .in_flight import CANCEL_GRACE
from .operation_runner import OperationRunner


class Lifetime:
    """Closes authors' connectors when the operations that use them have ended. Belongs to one event loop.

    Every end is a task of its own, so that a caller that is cancelled leaves no connector half closed.
    """

    def __init__(self, runner: OperationRunner, store: str, class_name: str) -> None:
        """`store` and `class_name` are for log events."""
        self._runner = runner
        self._store = store
        self._class_name = class_name
        self._closing: asyncio.Task[None] | None = None
        self._replaced: set[asyncio.Task[None]] = set()
        self._after_close: Callable[[], Awaitable[None]] | None = None

    def then_close(self, close: Callable[[], Awaitable[None]]) -> None:
        """Has `run_after_close` await `close`, once."""
        self._after_close = close

    async def close(self, wrapped: RemoteConnector, grace: float) -> None:
        """Refuses new operations and ends `wrapped`. A further call waits for the same end."""
        if self._closing is None:
            self._runner.refuse()
            self._closing = asyncio.get_running_loop().create_task(self._close(wrapped, grace))
        await asyncio.shield(self._closing)

    async def _close(self, wrapped: RemoteConnector, grace: float) -> None:
        await self._end(wrapped, self._runner.in_flight.drain(), grace)
        if self._replaced:
            await asyncio.wait(self._replaced)

    async def run_after_close(self) -> None:
        """Awaits what `then_close` was given, unless that was done before."""
        after, self._after_close = self._after_close, None
        if after is not None:
            await after()

    async def wait_closed(self) -> None:
        """Waits for the end of a `close` that has begun."""
        if self._closing is not None:
            await asyncio.shield(self._closing)

    async def replace(self, before: RemoteConnector, grace: float, then: Callable[[], None]) -> None:
        """Admits operations again, which now go to another connector, and ends `before` unless it was closed.

        Calls `then` when no operation uses `before` any more, also where the caller was cancelled meanwhile.
        """
        ending = None
        if self._closing is None:  # the operations that are under way now use `before`
            ending = asyncio.get_running_loop().create_task(self._end(before, self._runner.in_flight.drain(), grace))
            self._replaced.add(ending)
            ending.add_done_callback(self._replaced.discard)
            ending.add_done_callback(lambda _: then())
        else:
            then()
        self._closing = None
        self._runner.readmit()
        if ending is not None:
            await asyncio.shield(ending)

    async def _end(self, wrapped: RemoteConnector, drain: Drain, grace: float) -> None:
        await self._runner.in_flight.finish(drain, grace)
        with anyio.move_on_after(max(grace, CANCEL_GRACE)) as scope:
            await wrapped.close()
        if scope.cancelled_caught:
            event(logging.WARNING, "close_timed_out", store=self._store, connector=self._class_name)


def close_soon(wrapped: RemoteConnector, loop: asyncio.AbstractEventLoop) -> None:
    """Has a loop that runs close `wrapped`.

    For a managed connector that was collected without `close()`: nobody is left to wait.
    """
    if loop.is_running():
        loop.call_soon_threadsafe(lambda: loop.create_task(wrapped.close()))
