"""`JobCounts`: the counters of all ports of jobs that use the connectors of one manager."""

from __future__ import annotations

from collections.abc import Callable

from ..process import ProcessLock
from .job_statistics import JobStatistics


class JobCounts:
    """Adds up the counters of ports, those that were closed included, so that sums never fall. Any thread may use it.

    A port tells where its counters are, because no module below the ports knows them.
    """

    def __init__(self) -> None:
        self._lock = ProcessLock("the counters of jobs")
        self._sources: list[Callable[[], JobStatistics]] = []
        self._ended = JobStatistics()

    def begin(self, source: Callable[[], JobStatistics]) -> None:
        """A port was made. `source` gives a copy of its counters, in any thread, and does not keep the port alive."""
        with self._lock:
            self._sources.append(source)

    def end(self, source: Callable[[], JobStatistics]) -> None:
        """That port was closed, and its counters do not change any more. Idempotent."""
        with self._lock:
            if source in self._sources:
                self._sources.remove(source)
                self._ended.add(source())

    def total(self) -> JobStatistics:
        """The sum of all ports' counters."""
        with self._lock:
            total = self._ended.copy()
            for source in self._sources:
                total.add(source())
        return total
