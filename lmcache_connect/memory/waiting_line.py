"""`WaitingLine`: the line of *allocations* that wait for room; gets have a line of their own, `streaming/room.py`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from ..process import this_process

T = TypeVar("T")


class WaitingLine:
    """Allocations that wait for room, first come, first served. Their callers may be on several event loops.

    Only the first in line is attempted. So a small request never overtakes a large one that came before it.

    An allocation that never waits does not stand in the line. Those of gets ask `may_pass` first: while somebody waits
    for n bytes, they may take n bytes in all. So small ones go on for a while, and cannot starve the first in line.
    """

    def __init__(self) -> None:
        # Appending, removing and looking at the first are atomic, so that no lock is needed. There must be none: the
        # garbage collector may call wake_first() at any moment (see finalizer_queue.py).
        self._places: deque[_Place] = deque()
        self._process = this_process()

    def __len__(self) -> int:
        return len(self._places)

    def may_pass(self, nbytes: int) -> bool:
        """Returns whether an allocation of `nbytes` may be made beside the line. Counts it as made. Never waits."""
        if not self._places:
            return True
        try:
            first = self._places[0]
        except IndexError:
            return True  # it has left meanwhile
        if first.passable < nbytes:
            return False
        first.passable -= nbytes  # threads at the same moment may pass together once, which starves nobody
        return True

    async def wait(self, attempt: Callable[[], T | None], nbytes: int = 0) -> T:
        """Returns the first result of `attempt()` that is not None.

        It is called when the caller is first in line, and again whenever room may have appeared. What it raises ends
        the wait. `nbytes` is what it asks for, and what others may take meanwhile.
        """
        place = _Place(asyncio.get_running_loop(), nbytes)
        self._places.append(place)
        try:
            while True:
                # In this order, room that appears after the attempt resolves the future that is awaited below.
                place.future = place.loop.create_future()
                if place not in self._places:
                    self._places.append(place)  # its loop stood still, and the others went on without it
                if self._places[0] is place and (got := attempt()) is not None:
                    return got
                await place.future
        finally:
            self._leave(place)
            self.wake_first()  # what is left may be enough for the next in line

    def wake_first(self) -> None:
        """Has the first in line try again. Called from any thread, and from the garbage collector: never waits."""
        if self._process.is_forked():  # their loops are the parent's, and so are the sockets that wake them
            return
        while self._places:
            try:
                first = self._places[0]
            except IndexError:
                return
            if first.wake():
                return
            self._leave(first)

    def drop_stopped(self) -> None:
        """Removes those whose event loop does not run. They cannot leave the line by themselves."""
        for place in list(self._places):
            if not place.loop.is_running():
                self._leave(place)

    def _leave(self, place: _Place) -> None:
        try:
            self._places.remove(place)
        except ValueError:
            pass  # another thread has seen that its loop was closed, and has removed it


class _Place:
    __slots__ = ("future", "loop", "passable")

    def __init__(self, loop: asyncio.AbstractEventLoop, nbytes: int) -> None:
        self.loop = loop
        self.passable = nbytes
        self.future: asyncio.Future[None] = loop.create_future()

    def wake(self) -> bool:
        """Resolves the future, from any thread. Returns whether its loop runs."""
        try:
            self.loop.call_soon_threadsafe(_resolve, self.future)
        except RuntimeError:  # its loop was closed while it waited
            return False
        return self.loop.is_running()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
