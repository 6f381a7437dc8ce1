"""`SharedQuestion`: one question at a time to other people's code, whose answer serves all that wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Final

from ..errors import ConnectorClosedError
from .raised import own_copy


class SharedQuestion:
    """Asks in a task of its own, which outlives the callers. One whose time is up leaves it to those that come later.

    Belongs to one event loop.
    """

    def __init__(self, what: str, ask: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """`ask` asks once, and keeps the answer. `what` is who asks, for messages."""
        self._what: Final = what
        self._ask: Final = ask
        self._task: asyncio.Task[None] | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether it is being asked now."""
        return self._task is not None and not self._task.done()

    async def ask(self, is_needed: Callable[[], bool], first: Callable[[], None] | None = None) -> None:
        """Waits for the question that is under way, and asks again where that has not helped.

        `is_needed` says after a question of others whether another one is needed. `first` is called before one begins.

        Raises:
            ConnectorClosedError: it was closed meanwhile. What asking raises.
        """
        if self.is_under_way:
            await self._answered()
            if not is_needed():
                return
        if not self.is_under_way:
            if first is not None:
                first()
            self.begin()
        await self._answered()

    def begin(self) -> None:
        """Asks, unless that is under way, and waits for nothing."""
        if not self.is_under_way:
            # In a context of its own: it outlives the call, and its deadline.
            self._task = asyncio.get_running_loop().create_task(self._ask(), context=Context())
            self._task.add_done_callback(_retrieve)

    async def _answered(self) -> None:
        if (task := self._task) is None:
            return
        await asyncio.wait((task,))
        if task.cancelled():
            raise ConnectorClosedError(self._what)
        if (error := task.exception()) is not None:
            raise own_copy(error)

    def close(self) -> None:
        """Stops asking. Those that wait get `ConnectorClosedError`. Idempotent."""
        if self._task is not None:
            self._task.cancel()


def _retrieve(task: asyncio.Task[None]) -> None:
    """Marks the outcome as looked at: every caller may have left."""
    if not task.cancelled():
        task.exception()
