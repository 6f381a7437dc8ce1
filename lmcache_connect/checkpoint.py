"""`checkpointed`: has every call of an async method pass at least one checkpoint, at little cost.

A call that never waits never lets the event loop do anything else. A caller that repeats it, because it was refused at
once or answered from memory, then starves every other task: also the probe that would have the store called again.

So each call waits for one iteration of the loop, unless it has waited for something before. One callback an iteration
tells that: it is scheduled by the first call, and counts the iteration when it runs.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar, cast
from weakref import WeakKeyDictionary

M = TypeVar("M", bound=Callable[..., Coroutine[Any, Any, Any]])


class Iterations:
    """Counts those iterations of one event loop in which somebody asked."""

    __slots__ = ("__weakref__", "_is_scheduled", "count")

    def __init__(self) -> None:
        self.count = 0
        self._is_scheduled = False

    def now(self, loop: asyncio.AbstractEventLoop) -> int:
        """Returns a number that is another one when the loop has done other work."""
        if not self._is_scheduled:
            self._is_scheduled = True
            loop.call_soon(self._passed)
        return self.count

    def _passed(self) -> None:
        self._is_scheduled = False
        self.count += 1


_iterations: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Iterations]] = WeakKeyDictionary()


def iterations_of(loop: asyncio.AbstractEventLoop) -> Iterations:
    """Returns the counter of a loop's iterations."""
    iterations = _iterations.get(loop)
    return iterations if iterations is not None else _iterations.setdefault(loop, Iterations())


def checkpointed(discard: Callable[[Any], object]) -> Callable[[M], M]:
    """A decorator of async methods. Each call then waits at least once, whether it returns or raises.

    `discard` is given a result that the caller cannot take, because it was cancelled while it waited.
    """

    def decorate(method: M) -> M:
        @functools.wraps(method)
        async def call(*args: Any, **kwargs: Any) -> Any:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:  # a fork, which is refused at once and must not run its parent's loop
                return await method(*args, **kwargs)
            iterations = iterations_of(loop)
            began = iterations.now(loop)
            try:
                result = await method(*args, **kwargs)
            except Exception:
                if iterations.count == began:
                    await asyncio.sleep(0)
                raise
            if iterations.count == began:
                try:
                    await asyncio.sleep(0)
                except BaseException:
                    discard(result)
                    raise
            return result

        return cast(M, call)

    return decorate


def nothing(_: object) -> None:
    """For results that hold nothing."""
