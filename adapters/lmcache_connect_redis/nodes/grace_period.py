"""`GracePeriod`: for how long servers that were asked side by side are waited for once one of them has answered."""

from __future__ import annotations

import asyncio
from typing import Final


class GracePeriod:
    """Ends the timers of those that are late. Belongs to one call on one event loop."""

    def __init__(self, seconds: float) -> None:
        """`seconds`: how much later than the first a server may answer."""
        self.seconds: Final = seconds
        self._timers: set[asyncio.Timeout] = set()
        self._until: float | None = None

    def add(self, timer: asyncio.Timeout) -> None:
        """Told of the timer of a server, when it was entered."""
        self._timers.add(timer)
        self._limit(timer)

    def remove(self, timer: asyncio.Timeout) -> None:
        """Told that the server has answered or failed. Before the timer is left."""
        self._timers.discard(timer)

    def one_has_answered(self) -> None:
        """Told that a server has answered. Only the first time counts."""
        if self._until is None:
            self._until = asyncio.get_running_loop().time() + self.seconds
            for timer in self._timers:
                self._limit(timer)

    def _limit(self, timer: asyncio.Timeout) -> None:
        until = self._until
        if until is None or timer.expired():
            return
        before = timer.when()
        if before is None or until < before:
            timer.reschedule(until)
