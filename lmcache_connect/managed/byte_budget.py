"""A limit on bytes in flight, handed out in order."""

from __future__ import annotations

import asyncio
from collections import deque


class ByteBudget:
    """At most `limit` bytes are in use at a time. Further requests wait, and are granted in the order they came in.

    A request for more than the limit gets all of it, alone, so that it does not wait for ever. Belongs to one loop.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def waiting(self) -> int:
        """The number of requests that wait."""
        return len(self._waiting)

    def take_free(self, nbytes: int) -> bool:
        """Takes `nbytes` of the budget where they are free and nobody waits. Returns whether it did."""
        share = min(nbytes, self.limit)
        if share and (self._waiting or self.used + share > self.limit):  # a look-up must not wait behind transfers
            return False
        self.used += share
        return True

    async def acquire(self, nbytes: int) -> None:
        """Takes `nbytes` of the budget, and waits for them where they are not free. Nothing is taken when it raises."""
        if self.take_free(nbytes):
            return
        share = min(nbytes, self.limit)
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((share, granted))
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self.used -= share  # granted and cancelled in the same iteration of the loop
            elif (share, granted) in self._waiting:
                self._waiting.remove((share, granted))
            self._grant()
            raise

    def release(self, nbytes: int) -> None:
        """Releases what `acquire(nbytes)` took."""
        self.used -= min(nbytes, self.limit)
        if self._waiting:
            self._grant()

    def _grant(self) -> None:
        while self._waiting:
            share, granted = self._waiting[0]
            if not granted.done():
                if self.used + share > self.limit:
                    return
                self.used += share
                granted.set_result(None)
            self._waiting.popleft()  # granted now, or cancelled before
