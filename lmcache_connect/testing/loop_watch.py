"""`LoopWatch`: for how long the event loop was held while a block ran."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

INTERVAL: Final = 0.0005
"""Seconds between two readings of the clock. A reading that comes late shows that something held the loop."""


class LoopWatch:
    """Measures, while its `async with` block runs, for how long one callback at a time held the running loop.

        async with LoopWatch() as watch:
            await connector.get(key)
        assert watch.longest < 0.1

    The clock is read about every 0.5 ms. A gap is the time between two readings, so on an idle loop it is a little more
    than that. Time in which the operating system ran other processes counts as well: on a busy machine take the best of
    several tries. May be entered again, which begins a new measurement.
    """

    def __init__(self, interval: float = INTERVAL, beside: Callable[[], float] | None = None) -> None:
        """`beside` returns a counter that is read with the clock, such as the time stolen by a hypervisor."""
        self._interval = interval
        self._beside = beside
        self._count = 0.0
        self._grown: list[float] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._handle: asyncio.TimerHandle | None = None
        self._last = 0.0
        self._gaps: list[float] = []

    @property
    def gaps(self) -> tuple[float, ...]:
        """Every gap in seconds, in order."""
        return tuple(self._gaps)

    @property
    def grown(self) -> tuple[float, ...]:
        """By how much the counter grew in every gap. Empty without a counter."""
        return tuple(self._grown)

    @property
    def longest(self) -> float:
        """The longest gap in seconds; 0 before the first reading."""
        return max(self._gaps, default=0.0)

    def percentile(self, percent: float) -> float:
        """The gap in seconds that `percent` % of the gaps do not exceed (nearest rank); 0 before the first reading."""
        if not 0 < percent <= 100:
            raise ValueError(f"percent is {percent}; expected more than 0 and at most 100")
        if not self._gaps:
            return 0.0
        return sorted(self._gaps)[math.ceil(len(self._gaps) * percent / 100) - 1]

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._gaps = []
        self._grown = []
        if self._beside is not None:
            self._count = self._beside()
        self._last = time.perf_counter()
        self._handle = self._loop.call_later(self._interval, self._look)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._handle.cancel()
        # A block that never awaited anything is one gap. Without this line it would be none.
        self._note()

    def _note(self) -> None:
        now = time.perf_counter()
        self._gaps.append(now - self._last)
        self._last = now
        if self._beside is not None:
            count = self._beside()
            self._grown.append(count - self._count)
            self._count = count

    def _look(self) -> None:
        assert self._loop is not None
        self._note()
        self._handle = self._loop.call_later(self._interval, self._look)
