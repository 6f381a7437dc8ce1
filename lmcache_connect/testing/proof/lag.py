"""`LagWatch`: how late an event loop and the threads run, so that a busy machine is not taken for a late call."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final, Self

_TICK: Final = 0.02
_HELD: Final = 0.4
"""Seconds without a tick after which the loop counts as held."""


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

    async def watch(self) -> None:
        """Measures the running event loop until it is cancelled."""
        while True:
            begun = time.monotonic()
            await asyncio.sleep(_TICK)
            self.note(begun)


class LagWatch:
    """Measures the running event loop, and a thread that only sleeps, while its `async with` block runs.

        async with LagWatch() as watch:
            begun = time.monotonic()
            await connector.get(key)
            late = time.monotonic() - begun - deadline
            assert late - watch.between(begun + deadline, time.monotonic()) < 0.5

    `on_held` is called from the thread, with the names of the innermost functions, each time that it sees the loop
    without a tick for 0.4 seconds.
    """

    def __init__(self, on_held: Callable[[str], None] | None = None) -> None:
        self.loop: Final = Lag()
        """Of the event loop."""
        self.threads: Final = Lag()
        """Of the thread: the machine's scheduler, and Python's lock."""
        self._on_held = on_held
        self._done = threading.Event()
        self._ticking: asyncio.Task[None] | None = None
        self._watching: threading.Thread | None = None

    def between(self, start: float, end: float) -> float:
        """The seconds by which the loop and the thread were late in monotonic time from `start` to `end`.

        The sum: a call passes through the loop and through threads one after the other, and each may have to wait. The
        loop's own last tick is known 20 ms later. So await a short sleep before.
        """
        return self.loop.between(start, end) + self.threads.between(start, end)

    async def __aenter__(self) -> Self:
        self._done.clear()
        self._ticking = asyncio.ensure_future(self.loop.watch())
        here = threading.get_ident()
        self._watching = threading.Thread(target=self._watch_threads, args=(here,), name="lag-watch", daemon=True)
        self._watching.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ticking, watching = self._ticking, self._watching
        assert ticking is not None
        assert watching is not None
        self._done.set()
        ticking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ticking
        watching.join(1)

    def _watch_threads(self, loop_thread: int) -> None:
        while not self._done.is_set():
            begun = time.monotonic()
            time.sleep(_TICK)
            self.threads.note(begun)
            if self._on_held is not None and self.loop.last_tick and begun - self.loop.last_tick > _HELD:
                self._on_held(_where(sys._current_frames().get(loop_thread)))


def _where(frame: FrameType | None) -> str:
    """The innermost three functions of a frame, with their files."""
    found: list[str] = []
    while frame is not None and len(found) < 3:
        code = frame.f_code
        found.append(f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back
    return " < ".join(found)
