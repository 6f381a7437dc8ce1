"""A limit on bytes in flight, handed out in order."""

from __future__ import annotations

import asyncio
import threading
from collections import deque


class ByteBudget:
    """At most `limit` bytes are in use at a time. Further requests wait, and are granted in the order they came in.

    A request for more than the limit gets all of it, alone, so that it does not wait for ever. Belongs to one loop.

    Other threads take what is free by `take_in_thread`. The loop counts in `used`, threads in `used_in_threads`.
    Both count what they want first, and look at the sum then. So two that want the same bytes do not both get them,
    and the loop takes no lock. In the same way a request stands in line before it looks whether a thread has
    released bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.used_in_threads = 0
        # Of threads alone, for `used_in_threads`. A handler of a signal may make a call amid the lines that hold it.
        self._lock = threading.RLock()
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def waiting(self) -> int:
        """The number of requests that wait."""
        return len(self._waiting)

    def take_free(self, nbytes: int) -> bool:
        """Takes `nbytes` of the budget where they are free and nobody waits. Returns whether it did."""
        share = min(nbytes, self.limit)
        self.used += share
        if share and (
            self._waiting or self.used + self.used_in_threads > self.limit
        ):  # a look-up must not wait behind transfers
            self.used -= share
            return False
        return True

    def take_in_thread(self, nbytes: int) -> bool:
        """`take_free` for another thread. It calls `release_in_thread` later, whatever this has returned."""
        share = min(nbytes, self.limit)
        with self._lock:
            self.used_in_threads += share
        return not share or not (self._waiting or self.used + self.used_in_threads > self.limit)

    def release_in_thread(self, nbytes: int) -> bool:
        """Ends `take_in_thread(nbytes)`. Returns whether requests wait, so that the loop is to call `grant`."""
        with self._lock:
            self.used_in_threads -= min(nbytes, self.limit)
        return bool(self._waiting)

    async def acquire(self, nbytes: int) -> None:
        """Takes `nbytes` of the budget, and waits for them where they are not free. Nothing is taken when it raises."""
        if self.take_free(nbytes):
            return
        share = min(nbytes, self.limit)
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((share, granted))
        self.grant()  # a thread may have released its share before it could see that somebody waits
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self.used -= share  # granted and cancelled in the same iteration of the loop
            elif (share, granted) in self._waiting:
                self._waiting.remove((share, granted))
            self.grant()
            raise

    def release(self, nbytes: int) -> None:
        """Releases what `acquire(nbytes)` took."""
        self.used -= min(nbytes, self.limit)
        if self._waiting:
            self.grant()

    def grant(self) -> None:
        """Grants what is free to requests that wait."""
        while self._waiting:
            share, granted = self._waiting[0]
            if not granted.done():
                if self.used + self.used_in_threads + share > self.limit:
                    return
                self.used += share
                granted.set_result(None)
            self._waiting.popleft()  # granted now, or cancelled before
