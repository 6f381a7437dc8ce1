"""`Mailbox`: how other threads and loops have an event loop call something, at one wake-up for all that come together.

A loop that is woken for each callback pays for each wake-up: a system call in the thread that asks, and an iteration of
the loop. What is posted before the loop has got to it is called in one iteration, in the order in which it was posted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary, ref


class Mailbox:
    """Has one event loop call what other threads post. `mailbox_of` gives it.

    It has no lock. An append to the deque is one step of the interpreter, and comes before the look at `_is_woken`. The
    loop resets `_is_woken` before it counts what is there. So each callback is counted, or sees that a wake-up is due.
    """

    __slots__ = ("__weakref__", "_is_woken", "_loop", "_posted")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = ref(loop)  # a thread that posts to a loop does not keep it
        self._posted: deque[Callable[[], object]] = deque()
        self._is_woken = False

    def post(self, callback: Callable[[], object]) -> None:
        """Has the loop call `callback`, which must not raise, soon. From any thread.

        Raises:
            RuntimeError: the loop is closed.
        """
        loop = self._loop()
        if loop is None or loop.is_closed():  # it may have been closed after it was woken
            self._posted.clear()
            raise RuntimeError("Event loop is closed")
        self._posted.append(callback)
        if not self._is_woken:
            self._is_woken = True
            loop.call_soon_threadsafe(self._open)

    def wake(self) -> None:
        """Wakes the loop, whether it was woken or not. Does nothing where it is closed.

        For a caller that has waited long. A thread that `KeyboardInterrupt` has left amid `post` has perhaps not woken
        the loop, though it seems so to others.
        """
        if self._posted and (loop := self._loop()) is not None:
            call_soon(loop, self._open)

    def _open(self) -> None:
        self._is_woken = False
        # Those that come meanwhile have the next iteration, so that nobody can hold the loop.
        for _ in range(len(self._posted)):
            self._posted.popleft()()


def call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: object) -> None:
    """Has `loop` call `callback` soon, from any thread. Does nothing where the loop is closed."""
    try:
        loop.call_soon_threadsafe(callback, *args)
    except RuntimeError:
        pass  # nobody is left to be told


_mailboxes: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Mailbox]] = WeakKeyDictionary()


def mailbox_of(loop: asyncio.AbstractEventLoop) -> Mailbox:
    """The mailbox of `loop`."""
    if (mailbox := _mailboxes.get(loop)) is None:
        # Two threads may make one each, at the first calls. Either serves, and those who share one share a wake-up.
        mailbox = _mailboxes.setdefault(loop, Mailbox(loop))
    return mailbox
