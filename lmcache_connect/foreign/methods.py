"""`ForeignMethods`: how the methods of a foreign object are called."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from ..errors import UnsupportedOperationError
from ..outside import contained
from ..transport import wait_uncancelled
from .dialect import Dialect


class ForeignMethods:
    """Awaits methods that may be coroutines or plain functions. Plain ones run in a thread of the connector's lane."""

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

    async def call(self, name: str, *args: Any, nbytes: int = 0, on_end: Callable[[], None] | None = None) -> Any:
        """What the method returns, awaited where it has to be. `on_end` is called once, when the call has ended.

        `nbytes` is what the call holds until then.

        A plain method whose caller is cancelled is left behind, and a chunk that it returns later is released.

        Raises:
            UnsupportedOperationError: the method raised `NotImplementedError`.
            What else the method raises.
        """
        end = _Once(on_end)
        try:
            method = getattr(self._target, name)
            if not inspect.iscoroutinefunction(method):
                return await self._in_thread(name, method, *args, nbytes=nbytes, end=end)
            if self._dialect.outlives_cancellation(self._target):
                return await self._shielded(name, method(*args))
            return await method(*args)
        except NotImplementedError as error:
            raise UnsupportedOperationError(self._name, name) from error
        except Exception:
            raise
        except BaseException as error:
            # A batch calls this in tasks of its own, where SystemExit would end the loop, and a CancelledError that
            # nobody asked for would be taken for a miss.
            if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                raise
            with contained(self._dialect.toolkit_context.lane.name, f"{self._name}.{name}"):
                raise
        finally:
            end.leave()

    async def _in_thread(self, name: str, method: Any, *args: Any, nbytes: int, end: _Once) -> Any:
        lane = self._dialect.toolkit_context.lane
        if name == "close":
            lane = lane.for_closing()
        result = await lane.run_in_thread(
            f"{self._name}.{name}",
            partial(method, *args),
            nbytes=nbytes,
            on_late=self._dialect.release,
            on_end=end.shared(),
        )
        return await result if inspect.isawaitable(result) else result

    async def _shielded(self, name: str, call: Coroutine[Any, Any, Any]) -> Any:
        # Cancelling such a connector ends one of its workers for good, and does not end the work. So this goes on after
        # a cancellation, and the task that it runs in is left behind.
        task = asyncio.get_running_loop().create_task(call, name=f"{self._name}.{name}")
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await wait_uncancelled(task)
            if not task.cancelled() and task.exception() is None:
                self._dialect.release(task.result())
            raise


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


class _Once:
    """Calls a function when all who share it have left."""

    def __init__(self, func: Callable[[], None] | None) -> None:
        self._func = func
        self._lock = threading.Lock()
        self._sharers = 1

    def shared(self) -> Callable[[], None]:
        """One more who shares it. Returns what that one calls to leave."""
        with self._lock:
            self._sharers += 1
        return self.leave

    def leave(self) -> None:
        with self._lock:
            self._sharers -= 1
            is_last = not self._sharers
        if is_last and self._func is not None:
            self._func()
