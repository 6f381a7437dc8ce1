"""`InFlight`: the operations of a connector that are under way, and what ends them."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Final

from ..loop import call_soon
from ..observability import event
from .drain import Drain
from .running import Running, ScopedRunning, ThreadRunning

CANCEL_GRACE: Final = 1.0
"""Seconds that operations have to end once they were cancelled."""


class InFlight:
    """The operations under way on one event loop. It ends them at their deadlines, and where a connector closes.

    One timer serves the deadlines of all operations, because a timer for each would cost more than a small call. It is
    set for the earliest deadline that it was told of. When it fires, it ends what is late, and is set again for the
    earliest deadline that is left. So most calls find it set, and touch it neither at their beginning nor at their end.

    Operations that run in other threads are added and removed by those. Each side writes first and looks then: a thread
    adds its operation, and then looks at the timer and whether the connector was closed; the loop does it the other way
    round. Adding, removing and copying are single steps of the interpreter.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, store: str) -> None:
        self._loop = loop
        self._store = store
        self._running: set[Running | ThreadRunning] = set()
        self._drains: list[Drain] = []
        self.ends_when_cancelled = False
        """Whether what begins from now on is ended by one cancellation: see `RemoteConnector.ends_when_cancelled`."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    def __len__(self) -> int:
        return len(self._running)

    def begin(self, seconds: float) -> Running:
        """Adds an operation that has to end within `seconds`. The caller runs it inside `with`, and calls `end`."""
        running = (Running if self.ends_when_cancelled else ScopedRunning)(self._loop, seconds)
        self._running.add(running)
        if running.deadline < self._timer_at:
            self._set_timer(running.deadline)
        return running

    def end(self, running: Running | ThreadRunning) -> None:
        """Removes an operation that has ended."""
        self._running.discard(running)
        if self._drains:
            self._tell_drains(running)

    def begin_in_thread(self, running: ThreadRunning) -> None:
        """Adds an operation of another thread. From that thread, which calls `end_in_thread`."""
        self._running.add(running)
        if running.deadline < self._timer_at:
            call_soon(self._loop, self._watch, running.deadline)

    def end_in_thread(self, running: ThreadRunning) -> None:
        """Removes an operation of another thread. From that thread."""
        self._running.discard(running)
        if self._drains:
            call_soon(self._loop, self._tell_drains, running)

    def drain(self) -> Drain:
        """The operations that are under way now, for `finish`."""
        drain = Drain(set(self._running))
        self._drains.append(drain)
        for running in drain.left - self._running:  # a thread has ended it before it could see the drain
            drain.ended(running)
        return drain

    async def finish(self, drain: Drain, grace: float) -> None:
        """Lets these operations finish for `grace` seconds, then cancels them."""
        try:
            await drain.wait(grace)
            for running in list(drain.left):
                if not running.is_cancelled:  # by its deadline
                    running.cancel()
            await drain.wait(CANCEL_GRACE)
        finally:
            self._drains.remove(drain)
        if drain.left:
            event(logging.WARNING, "close_abandoned_operations", store=self._store, operations=len(drain.left))

    def _tell_drains(self, running: Running | ThreadRunning) -> None:
        for drain in self._drains:
            drain.ended(running)

    def _watch(self, deadline: float) -> None:
        if deadline < self._timer_at:
            self._set_timer(deadline)

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        self._timer = self._loop.call_at(when, self._end_late)

    def _end_late(self) -> None:
        self._timer, self._timer_at = None, math.inf
        now = self._loop.time()
        waiting = [running for running in [*self._running] if not running.is_cancelled]
        for running in waiting:
            if running.deadline <= now:
                running.is_late = True
                running.cancel()
        if left := [running.deadline for running in waiting if not running.is_late]:
            self._set_timer(min(left))
