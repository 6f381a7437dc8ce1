"""`Footprint`: the descriptors, threads and tasks of this process, before and after a cell."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from dataclasses import dataclass
from typing import Final

from lmcache_connect import ConnectorManager

_WAIT: Final = 7.0
"""Seconds that proxies have to notice that their clients are gone. Threads of foreign code wait five for a job."""


def warm_up() -> None:
    """Makes what the process keeps for the next call: without it, the first cell seems to leave that."""
    with ConnectorManager("memory://warm-up") as manager:
        manager.create_connector().sync.get("nothing")


@dataclass(frozen=True)
class Footprint:
    """What a process holds. Taken on the event loop."""

    descriptors: int
    threads: frozenset[str]
    tasks: int

    @classmethod
    def take(cls) -> Footprint:
        threads = frozenset(thread.name for thread in threading.enumerate() if not _is_kept(thread.name))
        return cls(len(os.listdir("/proc/self/fd")), threads, len(asyncio.all_tasks()))

    async def left(self) -> list[str]:
        """What there is more of now. Waits until nothing is, some seconds at most."""
        ends = time.monotonic() + _WAIT
        while found := self._more(Footprint.take()):
            if time.monotonic() >= ends:
                return found
            gc.collect()
            await asyncio.sleep(0.02)
        return []

    def _more(self, now: Footprint) -> list[str]:
        found = []
        if now.descriptors > self.descriptors:
            found.append(f"{now.descriptors - self.descriptors} descriptors")
        if threads := now.threads - self.threads:
            found.append(f"threads {', '.join(sorted(threads))}")
        if now.tasks > self.tasks:
            found.append(f"{now.tasks - self.tasks} tasks")
        return found


def _is_kept(name: str) -> bool:
    """Threads of pools that the whole process shares, and that wait for their next job."""
    return name.startswith(_SHARED)


_SHARED: Final = (
    "AnyIO",
    "ThreadPoolExecutor",
    "asyncio_",
    "faulty redis",
    "faulty s3",
    "lmcache-connect courier",
    "outside imports",
    "outside the manager",
)
