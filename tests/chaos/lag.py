"""`Lag`: how late this process's event loop and threads run, so that a busy machine is not taken for a late call."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import deque
from pathlib import Path
from types import FrameType
from typing import Final

from .journal import Journal

_TICK: Final = 0.02
_HELD: Final = 0.4


class Lag:
    """A row of samples: when a pause of `_TICK` seconds ended, and how much later than it should."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=50_000)
        self.worst = 0.0
        """The latest of all ticks, in seconds."""
        self.last_tick = 0.0
        """When the last pause ended; 0 before the first."""

    def note(self, begun: float) -> None:
        """Takes the sample of a pause that began at `begun` and has just ended."""
        now = time.monotonic()
        late = now - begun - _TICK
        self.worst = max(self.worst, late)
        self.last_tick = now
        if late > 0.002:
            self._samples.append((now, late))

    def between(self, start: float, end: float) -> float:
        """The sum of what was late in the seconds from `start` to `end`."""
        total = 0.0
        for ended, late in reversed(tuple(self._samples)):
            if ended < start:
                break
            total += max(0.0, min(ended, end) - max(ended - late, start))
        return total


async def watch_loop(lag: Lag) -> None:
    """Measures the running event loop until it is cancelled."""
    while True:
        begun = time.monotonic()
        await asyncio.sleep(_TICK)
        lag.note(begun)


def watch_threads(lag: Lag, done: threading.Event, loop_lag: Lag, loop_thread: int, journal: Journal) -> None:
    """Measures, from a thread of its own, how late threads run: the machine's scheduler, and Python's lock.

    Where the event loop has not ticked for `_HELD` seconds, it counts what the loop's thread is doing.
    """
    while not done.is_set():
        begun = time.monotonic()
        time.sleep(_TICK)
        lag.note(begun)
        if loop_lag.last_tick and begun - loop_lag.last_tick > _HELD:
            journal.count(f"the event loop is held: {_where(sys._current_frames().get(loop_thread))}")


def _where(frame: FrameType | None) -> str:
    """The innermost three functions of a frame, with their files."""
    found: list[str] = []
    while frame is not None and len(found) < 3:
        code = frame.f_code
        found.append(f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back
    return " < ".join(found)
