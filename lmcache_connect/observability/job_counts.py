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
        self._closing: list[Callable[[], JobStatistics]] = []
        self._ended = JobStatistics()

    def begin(self, source: Callable[[], JobStatistics]) -> None:
        """A port was made. `source` gives a copy of its counters, in any thread, and does not keep the port alive."""
        with self._lock:
            self._sources.append(source)

    def end(self, source: Callable[[], JobStatistics]) -> None:
        """That port was closed. Idempotent. Jobs of it that have not ended yet are still counted when they do."""
        with self._lock:
            if source in self._sources:
                self._sources.remove(source)
                self._closing.append(source)
                self._add_ended()

    def total(self) -> JobStatistics:
        """The sum of all ports' counters."""
        with self._lock:
            self._add_ended()
            total = self._ended.copy()
            for source in (*self._sources, *self._closing):
                total.add(source())
        return total

    def _add_ended(self) -> None:
        """Adds up the closed ports whose counters do not change any more, and forgets them."""
        for source in [*self._closing]:
            counted = source()
            if not counted.in_flight:
                self._closing.remove(source)
                self._ended.add(counted)
