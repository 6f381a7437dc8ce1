"""`LoopLag`: how late an event loop is."""

from __future__ import annotations

import asyncio
import weakref
from typing import Final

from ..observability import Histogram

_PERIOD: Final = 0.25
"""Seconds between two timers."""


class LoopLag:
    """Sets a timer four times a second, and counts how late each one fires.

    A loop that is late has run code that did not yield, or got no processor: every transfer on it waits as long. The
    timers hold this object by weak reference and end with it.
    """

    def __init__(self) -> None:
        self.seconds: Final = Histogram()
        """The lags, in seconds. Any thread may read it."""
        self._loop: weakref.ref[asyncio.AbstractEventLoop] | None = None

    def watch(self) -> None:
        """Begins to watch the running loop. Does nothing where it watches that one already."""
        loop = asyncio.get_running_loop()
        if self._loop is None or self._loop() is not loop:
            self._loop = weakref.ref(loop)
            _later(loop, weakref.ref(self))

    def _fired(self, loop: asyncio.AbstractEventLoop, due: float) -> bool:
        """Counts. Returns whether the timer is to be set again."""
        if self._loop is None or self._loop() is not loop:
            return False
        self.seconds.observe(max(0.0, loop.time() - due))
        return True


def _later(loop: asyncio.AbstractEventLoop, lag: weakref.ref[LoopLag]) -> None:
    due = loop.time() + _PERIOD

    def fire() -> None:
        alive = lag()
        if alive is not None and alive._fired(loop, due):
            _later(loop, lag)

    loop.call_at(due, fire)
