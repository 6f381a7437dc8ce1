"""`ForeignMethods`: how the methods of a foreign object are called."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Coroutine
from typing import Any, Final

import anyio.to_thread

from ..errors import UnsupportedOperationError
from ..transport import in_thread, wait_uncancelled
from .dialect import Dialect

_READS_MEMORY: Final = ("put", "batched_put")

ABANDON_GRACE: Final = 1.0
"""Seconds that a call which cannot be cancelled is waited for after its caller gave up. Then it is left to itself: a
chunk that it returns later is released, and the view that a `put` was given is revoked."""


class ForeignMethods:
    """Awaits methods that may be coroutines or plain functions. Plain ones run in a thread, because they may block."""

    def __init__(self, target: Any, dialect: Dialect) -> None:
        self._target = target
        self._dialect = dialect
        self._name: Final = type(target).__qualname__

    def has(self, name: str) -> bool:
        """Whether there is a method of this name."""
        return callable(getattr(self._target, name, None))

    def supports(self, name: str) -> bool:
        """Whether there is a method of this name, and `support_<name>()` says True."""
        supports = getattr(self._target, f"support_{name}", None)
        return self.has(name) and callable(supports) and supports() is True

    async def call(self, name: str, *args: Any) -> Any:
        """What the method returns, awaited where it has to be.

        A plain `put` is waited for past its caller's cancellation, because it reads the caller's memory. Any other
        plain method is abandoned, and a chunk that it returns later is released.

        Raises:
            UnsupportedOperationError: the method raised `NotImplementedError`.
            What else the method raises.
        """
        method = getattr(self._target, name)
        try:
            if not inspect.iscoroutinefunction(method):
                return await self._in_thread(method, *args, is_abandoned_on_cancel=name not in _READS_MEMORY)
            if self._dialect.outlives_cancellation(self._target):
                return await self._shielded(name, method(*args))
            return await method(*args)
        except NotImplementedError as error:
            raise UnsupportedOperationError(self._name, name) from error

    async def _in_thread(self, method: Any, *args: Any, is_abandoned_on_cancel: bool) -> Any:
        is_abandoned = False

        def call() -> Any:
            result = method(*args)
            if is_abandoned:
                self._dialect.release(result)
            return result

        try:
            if is_abandoned_on_cancel:
                result = await anyio.to_thread.run_sync(call, abandon_on_cancel=True)
            else:
                result = await in_thread(call)
        except BaseException:
            is_abandoned = True
            raise
        return await result if inspect.isawaitable(result) else result

    async def _shielded(self, name: str, call: Coroutine[Any, Any, Any]) -> Any:
        # Cancelling such a connector ends one of its workers for good, and does not end the work.
        task = asyncio.get_running_loop().create_task(call, name=f"{self._name}.{name}")
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            try:
                await wait_uncancelled(task, ABANDON_GRACE)
            finally:
                if task.done():
                    self._release_result(task)
                else:
                    task.add_done_callback(self._release_result)
            raise

    def _release_result(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._dialect.release(task.result())
