"""`FinalizerQueue`: what finalizers may do at any moment.

The arena learns of the end of things from finalizers: a block is free when the last view of it is gone, and an object
that nobody released is reported by its `__del__`. Finalizers run in any thread, whenever the last reference goes. The
garbage collector even runs them between two lines of a thread that holds the arena's lock. So a finalizer must not wait
for that lock, which its own thread may hold, and must not change what the lock guards, which may be half changed.

It therefore only appends to this queue. The entries are handled under the lock: at once where the lock is free, and
otherwise by the thread that holds it, which looks at the queue again after it has let go of the lock.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class FinalizerQueue(Generic[T]):
    """Entries that finalizers append, handled one by one by a thread that holds `lock`."""

    __slots__ = ("_entries", "_handle", "_lock")

    def __init__(self, lock: threading.Lock, handle: Callable[[T], None]) -> None:
        """`handle` is called with each entry, under the lock. It must not raise."""
        self._lock = lock
        self._handle = handle
        self._entries: deque[T] = deque()

    def append(self, entry: T) -> None:
        """Adds an entry. Never waits, so that a finalizer may call it."""
        self._entries.append(entry)

    def handle_all(self) -> None:
        """Handles every entry. The caller holds the lock."""
        while self._entries:
            self._handle(self._entries.popleft())

    def handle_if_unlocked(self) -> None:
        """Handles every entry unless the lock is taken: its holder calls this after letting go. Never waits."""
        while self._entries and self._lock.acquire(blocking=False):
            try:
                self.handle_all()
            finally:
                self._lock.release()
