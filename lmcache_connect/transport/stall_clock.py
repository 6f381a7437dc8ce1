"""`StallClock`: tells when one connection has been without progress for too long.

It counts only while a transfer waits for its socket: while this end is ready and the peer owes progress. It does not
count while a get waits for room, nor while a connection is idle. It costs the hot path one reading of the time for each
wait, and nothing for each system call:

* A loop stream has one timer, which is set when a transfer waits and finds none set. When it fires, it asks the clock,
  and is set again for what is left.
* A thread's calls end by themselves after a tick (`SO_RCVTIMEO`, `SO_SNDTIMEO`), if nothing moves. It then asks the
  clock.

Bytes that the kernel has taken, and still sends, are progress as well. So the clock looks at them one tick before the
limit, and at the limit. While some are left, the peer has not received the request whole, and gets no longer limit.
"""

from __future__ import annotations

import math
from typing import Final

from .wire import StreamStalledError, Wire

TICKS: Final = 4
"""Into how many ticks the limit is divided."""

SEND_TICK: Final = 0.1
"""Seconds after which a thread's call to send ends by itself, if a tick is longer: the payload may be wanted back."""


class StallClock:
    """The clock of one wire. All times are seconds of one monotonic clock, which the caller reads."""

    __slots__ = ("_sampled", "_unsent", "_wire", "moved_at")

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.moved_at = 0.0
        """When the wait began, or something last moved in it. Set by the stream."""
        self._sampled = -1.0
        self._unsent = 0

    @property
    def tick(self) -> float:
        """The seconds after which a thread's call ends by itself. Infinite where there is no limit."""
        limit = self._wire.stall_timeout
        return math.inf if limit is None else limit / TICKS

    @property
    def send_tick(self) -> float:
        """The same for a call that sends."""
        return min(self.tick, SEND_TICK)

    def left(self, now: float) -> float:
        """Returns the seconds until the next look is due; 0 or less where the connection is dead."""
        wire = self._wire
        limit, silence_limit = wire.stall_timeout, wire.silence_limit
        if limit is None or silence_limit is None:
            return math.inf
        quiet = now - self.moved_at
        first_look = limit - limit / TICKS
        if quiet < first_look:
            return first_look - quiet
        unsent = wire.unsent()
        if unsent:
            is_first, before = self._sampled != self.moved_at, self._unsent
            self._unsent = unsent
            if is_first:
                self._sampled = self.moved_at
                return limit / TICKS  # there is nothing to compare with yet
            if unsent < before:
                self._sampled = self.moved_at = now  # the kernel still sends
                return limit / TICKS
        return (limit if unsent else silence_limit) - quiet

    def error(self) -> StreamStalledError:
        """Returns the error of a connection that is dead."""
        return StreamStalledError(self._wire.peer, self._wire.silence_limit or 0.0)
