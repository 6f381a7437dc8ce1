"""`Iterations`: tells one iteration of an event loop from another."""

from __future__ import annotations

import asyncio
from typing import Final
from weakref import WeakKeyDictionary


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
