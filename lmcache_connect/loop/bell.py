"""`Bell`: what one thread waits for, and the event loop's thread rings.

A lock would do, and costs more than all else of a small call. The thread that releases it goes on holding the
interpreter's own lock. So the thread that it wakes finds that one taken, and sleeps again; both change places several
times. A system call, such as writing to a descriptor, gives the interpreter up: the woken thread runs at once.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from typing import Final, Protocol

_KEPT: Final = 64
"""Bells that are kept for further calls. Each has a descriptor."""


class Bell(Protocol):
    """Wakes the one thread that waits for it. A ring is kept until somebody waits. May wake a thread once too often."""

    def ring(self) -> None:
        """Wakes the thread. From any thread, and not in a fork, which shares the descriptor."""

    def wait(self, seconds: float) -> bool:
        """Blocks this thread until the bell rings, for `seconds` at most. Returns whether it rang."""
        ...


class _EventBell:
    """A bell by an eventfd of Linux."""

    __slots__ = ("_descriptor", "_poll")

    def __init__(self) -> None:
        self._descriptor = -1
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        self._poll: Final = poll.poll

    def ring(self) -> None:
        os.eventfd_write(self._descriptor, 1)

    def wait(self, seconds: float) -> bool:
        if not self._poll(seconds * 1000):
            return False
        try:
            os.eventfd_read(self._descriptor)
        except BlockingIOError:  # a fork has read it
            return False
        return True

    def __del__(self) -> None:
        # Here, and not before: a call that may still ring it holds the bell, and the number is soon another file's.
        if self._descriptor >= 0:
            os.close(self._descriptor)


class _LockBell:
    """A bell by a lock, for where there is no eventfd."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def ring(self) -> None:
        try:
            self._lock.release()
        except RuntimeError:
            pass  # it has rung already

    def wait(self, seconds: float) -> bool:
        return self._lock.acquire(True, seconds)


_kept: Final[deque[Bell]] = deque(maxlen=_KEPT)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_kept.clear)  # the fork shares their descriptors with its parent


def bell() -> Bell:
    """A bell that has not rung."""
    try:
        return _kept.pop()
    except IndexError:
        pass
    if hasattr(os, "eventfd"):
        try:
            return _EventBell()
        except OSError:
            pass  # the process has no descriptor left, or the system has no eventfd
    return _LockBell()


def keep(rung: Bell) -> None:
    """Keeps a bell for further calls. It has rung, was waited for, and nobody will ring it again."""
    _kept.append(rung)
