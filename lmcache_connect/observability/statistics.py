"""`StoreMetrics`: the counters of one connector, by operation."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

from ..process import ProcessLock, this_process
from .histogram import Histogram


@dataclass
class OperationStatistics:
    """Counters of one operation on one store since the connector was created. Times are seconds, sizes are bytes.

    `queue` has the times that calls waited for the byte budget. `wire` has the times that they took after that. A call
    that the circuit breaker refused is in neither.
    """

    calls: int = 0
    items: int = 0
    hits: int = 0
    misses: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    bytes: int = 0
    queue: Histogram = field(default_factory=Histogram)
    wire: Histogram = field(default_factory=Histogram)
    in_flight: int = 0

    @property
    def queue_seconds(self) -> float:
        """The sum of `queue`, in seconds."""
        return self.queue.sum

    @property
    def wire_seconds(self) -> float:
        """The sum of `wire`, in seconds."""
        return self.wire.sum

    def copy(self) -> OperationStatistics:
        """A copy that later calls do not change."""
        return OperationStatistics(
            **{
                **vars(self),
                "misses": Counter(self.misses),
                "errors": Counter(self.errors),
                "queue": self.queue.copy(),
                "wire": self.wire.copy(),
            }
        )

    def since(self, earlier: OperationStatistics) -> OperationStatistics:
        """What was counted after `earlier` was copied from this one. `in_flight` is that of now."""
        return OperationStatistics(
            calls=self.calls - earlier.calls,
            items=self.items - earlier.items,
            hits=self.hits - earlier.hits,
            misses=self.misses - earlier.misses,
            errors=self.errors - earlier.errors,
            retries=self.retries - earlier.retries,
            bytes=self.bytes - earlier.bytes,
            queue=self.queue.since(earlier.queue),
            wire=self.wire.since(earlier.wire),
            in_flight=self.in_flight,
        )

    def add(self, other: OperationStatistics) -> None:
        """Adds the counts of another one, except for `in_flight`."""
        self.calls += other.calls
        self.items += other.items
        self.hits += other.hits
        self.misses.update(other.misses)
        self.errors.update(other.errors)
        self.retries += other.retries
        self.bytes += other.bytes
        self.queue.add(other.queue)
        self.wire.add(other.wire)


@dataclass
class HotCacheCounts:
    """How often a hot cache was asked, in chunks: `hits` and `misses`; and `evictions`, chunks that made room."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0

    def add(self, other: HotCacheCounts) -> None:
        """Adds the counts of another one."""
        self.hits += other.hits
        self.misses += other.misses
        self.evictions += other.evictions


class StoreMetrics:
    """The counters of one connector, by operation name. Any thread may read them.

    `hot_cache` has the counts of the connector's hot cache; they stay 0 where it has none.

    The connector's event loop counts in `operation(name)`. Calls that run in other threads count apart from it, in
    `in_threads(name)`, and hold `counting` meanwhile. `snapshot` has the sum.
    """

    def __init__(self, store: str) -> None:
        self.store = store
        self.hot_cache = HotCacheCounts()
        self._process = this_process()
        self._lock = ProcessLock("the counters of a connector")
        self._operations: dict[str, OperationStatistics] = {}
        self._in_threads: dict[str, OperationStatistics] = {}
        self.counting = threading.RLock()
        """Held for a few lines, by threads that count and by those who read. A handler of a signal may make a call amid
        those lines, in the same thread."""
        self.removals: Counter[tuple[str, str]] = Counter()
        """The live number of damaged records by what was wrong with them, and by what became of them."""

    def operation(self, name: str) -> OperationStatistics:
        """The live counters of one operation."""
        found = self._operations.get(name)
        if found is None:
            with self._lock:
                found = self._operations.setdefault(name, OperationStatistics())
        return found

    def in_threads(self, name: str) -> OperationStatistics:
        """The live counters of one operation's calls that other threads than the event loop's run. Holds `counting`."""
        found = self._in_threads.get(name)
        return found if found is not None else self._in_threads.setdefault(name, OperationStatistics())

    def snapshot(self) -> dict[str, OperationStatistics]:
        """A copy of all counters."""
        with self._lock:
            copies = {name: live.copy() for name, live in self._operations.items()}
            with self.counting:
                for name, live in [*self._in_threads.items()]:
                    total = copies.setdefault(name, OperationStatistics())
                    total.add(live)
                    total.in_flight += live.in_flight
        return copies

    def snapshot_of_removals(self) -> Counter[tuple[str, str]]:
        """A copy of `removals`."""
        return Counter(self.removals)

    def add(self, other: StoreMetrics) -> None:
        """Adds the counts of another connector."""
        if self._process.is_forked():  # a connector that a fork inherited is collected there: nobody reads the sum
            return
        for name, counted in other.snapshot().items():
            self.operation(name).add(counted)
        self.hot_cache.add(other.hot_cache)
        self.removals.update(other.snapshot_of_removals())
