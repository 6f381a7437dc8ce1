"""`RepeatedEvent`: an event that may come thousands of times, and is told at a bounded rate."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from .events import event

MOST_LINES: Final = 10
"""Lines that one such event may have in `WINDOW`."""

WINDOW: Final = 60.0
"""Seconds in which lines are counted."""


class RepeatedEvent:
    """One event of one object. Beyond `MOST_LINES` in `WINDOW` seconds it is told for debugging alone, and counted.

    The next line at its own level says how many were not told (`untold`). What fails and works again is told better by
    `Conditions`. May be used from any thread: two that tell at the same time may add a line, or miscount one.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._told: deque[float] = deque(maxlen=MOST_LINES)
        self._untold = 0

    def tell(self, level: int, **facts: Any) -> None:
        """Logs the event with these facts, as `event` does."""
        now = self._clock()
        if len(self._told) == MOST_LINES and now - self._told[0] < WINDOW:
            self._untold += 1
            event(logging.DEBUG, self._name, **facts)
            return
        self._told.append(now)
        untold, self._untold = self._untold, 0
        event(level, self._name, **facts, **({"untold": untold} if untold else {}))
