"""`WarmUp`: touches the pages of an arena ahead of their use, in a thread."""

from __future__ import annotations

import ctypes
import mmap
import threading
import time
from typing import Final

from ..process import this_process
from .allocator import GRANULE, SMALL
from .page_touch import touch_pages

SLICE: Final = 2 << 20
"""Bytes touched by one system call: the size of a huge page. A get that begins meanwhile has all processors soon."""

_DELAY: Final = 0.25
"""Seconds before the first page: what is over by then, such as a short command, is not slowed down."""

_QUIET: Final = 0.1
"""Seconds without a new block before pages are touched: transfers need the processors more."""

_END_SECONDS: Final = 1.0
"""How long the end of the thread is waited for. It is a daemon: it ends with the process in any case."""

_SMALL_SHARE: Final = 16
"""The high end, where small blocks are, is kept warm for one sixteenth of the bytes that the low end is."""


class WarmUp:
    """Keeps pages warm ahead of the blocks in use, at both ends of an arena: see `BlockAllocator` for which are where.

    The first write to a page costs more than receiving its bytes, since the kernel finds and clears memory for it. A
    page that a block had once is warm from then on, so it is enough to be ahead of the farthest block there ever was.
    """

    def __init__(self, mapping: mmap.mmap, capacity: int, ahead: int) -> None:
        """Touches nothing before `start`.

        `mapping` has `capacity` bytes, and is kept until the thread has ended. `ahead` is the bytes to be warm beyond
        the blocks in use; at least `capacity`: the whole arena.
        """
        self._process = this_process()
        self._mapping = mapping
        self._address = ctypes.addressof(ctypes.c_ubyte.from_buffer(mapping))
        self._capacity = capacity
        self._ahead = min(ahead, capacity) // GRANULE * GRANULE
        self._low, self._high = _End(), _End()
        self._used_at = 0.0
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def warm(self) -> int:
        """Bytes that have been touched, or handed out."""
        return min(self._low.warm + self._high.warm, self._capacity)

    def start(self) -> None:
        """Starts the thread, which ends when all is warm, or after `stop`. Without a thread, nothing is warmed."""
        thread = threading.Thread(target=self._run, name="lmcache-connect-warm-up", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the process may have no more threads
            return
        self._thread = thread

    def stop(self) -> None:
        """Has the thread end after its slice. Does not wait for it. Does nothing in a fork, which has no thread."""
        if self._process.is_forked():
            return  # the thread may have held the locks of both events at the fork
        self._stopped.set()
        self._wake.set()

    def end(self) -> None:
        """Ends the thread, and waits for its slice, which takes some milliseconds."""
        self.stop()
        if self._thread is not None:
            self._thread.join(_END_SECONDS)

    def used(self, start: int, size: int) -> None:
        """Called when a block is handed out."""
        self._used_at = time.monotonic()
        end, reach = (self._high, self._capacity - start) if size < SMALL else (self._low, start + size)
        if reach > end.used:
            end.used = reach
            self._wake.set()

    def _run(self) -> None:
        pause = _DELAY
        while not self._stopped.wait(pause) and self.warm < self._capacity:
            pause = self._used_at + _QUIET - time.monotonic()
            if pause > 0:
                continue
            self._wake.clear()
            if not (self._touch_high() or self._touch_low()):
                self._wake.wait()

    def _touch_high(self) -> bool:
        found = self._high.next_slice(self._ahead // _SMALL_SHARE // GRANULE * GRANULE, self._capacity - self._low.warm)
        if found is not None:
            begin, end = found
            self._touch(self._capacity - end, end - begin)
            self._high.warm = end
        return found is not None

    def _touch_low(self) -> bool:
        found = self._low.next_slice(self._ahead, self._capacity - self._high.warm)
        if found is not None:
            begin, end = found
            self._touch(begin, end - begin)
            self._low.warm = end
        return found is not None

    def _touch(self, start: int, size: int) -> None:
        if not touch_pages(self._address + start, size):
            self.stop()


class _End:
    """One end of the arena. Both numbers are bytes from there."""

    __slots__ = ("used", "warm")

    def __init__(self) -> None:
        self.used = 0
        """Up to the end of the farthest block that there ever was. Its owner touches its pages."""
        self.warm = 0

    def next_slice(self, ahead: int, limit: int) -> tuple[int, int] | None:
        """Where the next slice begins and ends; None where enough is warm."""
        goal = min(self.used + ahead, limit)
        if self.warm >= goal:
            return None
        begin = min(max(self.warm, self.used // SLICE * SLICE), goal)
        return begin, min(begin - begin % SLICE + SLICE, goal)
