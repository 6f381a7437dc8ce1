"""`ResourceUse` and `ResourceWatch`: what a process has in use, and whether that grows."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_STEADY: Final = 15
"""Samples that a growth is told from. In fewer, connectors still open connections for the first time."""

_WARM_UP: Final = 5
"""The first of so many parts of the samples is left out: caches and pools fill up then."""


@dataclass(frozen=True, slots=True)
class ResourceUse:
    """What this process uses at one moment. What the system does not tell is 0.

    Attributes:
        rss: memory in use, in bytes.
        descriptors: open files and sockets.
        threads: Python's threads.
        tasks: the tasks of the running event loop; 0 in a thread without one.
    """

    rss: int
    descriptors: int
    threads: int
    tasks: int

    @classmethod
    def now(cls) -> ResourceUse:
        """Of this moment. Linux tells all four, other systems threads and tasks alone."""
        rss = descriptors = 0
        with contextlib.suppress(OSError):
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
            rss = pages * os.sysconf("SC_PAGE_SIZE")
        with contextlib.suppress(OSError):
            descriptors = len(os.listdir("/proc/self/fd")) - 1  # without the one that lists them
        try:
            tasks = len(asyncio.all_tasks())
        except RuntimeError:
            tasks = 0
        return cls(rss, descriptors, threading.active_count(), tasks)


class ResourceWatch:
    """Takes a sample of `ResourceUse` every `interval` seconds while its `async with` block runs.

        async with ResourceWatch() as watch:
            ...
        assert watch.growth("descriptors") < 8

    `on_sample` is called with each, on the event loop.
    """

    def __init__(self, interval: float = 1.0, on_sample: Callable[[ResourceUse], None] | None = None) -> None:
        self._interval = interval
        self._on_sample = on_sample
        self._sampling: asyncio.Task[None] | None = None
        self.samples: Final[list[tuple[float, ResourceUse]]] = []
        """When each was taken, in monotonic time, and what was in use."""

    def growth(self, what: str, counts: Callable[[float], bool] = lambda when: True) -> float:
        """By how much a measure grew, along the straight line that fits best. `what` is a field of `ResourceUse`.

        The first fifth of the time is left out, and so is everything else where fewer than 15 samples are left: 0.0.
        `counts` says of a monotonic time whether a sample of then is used, such as one without a fault.
        """
        return growth_of([(when, float(getattr(use, what))) for when, use in self.samples if counts(when)])

    async def __aenter__(self) -> Self:
        self._sampling = asyncio.ensure_future(self._sample())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._sampling is not None
        self._sampling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._sampling

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            use = ResourceUse.now()
            self.samples.append((time.monotonic(), use))
            if self._on_sample is not None:
                self._on_sample(use)


def growth_of(samples: Sequence[tuple[float, float]]) -> float:
    """How much a measure grew from a fifth of the time to its end, along the straight line that fits best."""
    steady = samples[len(samples) // _WARM_UP :]
    if len(steady) < _STEADY:
        return 0.0
    times, values = zip(*steady, strict=True)
    middle, mean = sum(times) / len(times), sum(values) / len(values)
    spread = sum((when - middle) ** 2 for when in times)
    slope = sum((when - middle) * (value - mean) for when, value in steady) / spread
    return float(slope * (times[-1] - times[0]))
