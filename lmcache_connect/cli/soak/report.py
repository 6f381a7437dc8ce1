"""`SoakReport`: what a run has shown, and whether that is as it should be."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Final

from .recovery import FaultRun, Recovery

SPARE: Final = {"rss": 96 << 20, "descriptors": 16.0, "threads": 8.0, "tasks": 8.0}
"""By how much a measure may grow over a run, and beyond the beginning at the end, and still count as flat."""


@dataclass(frozen=True, slots=True)
class Second:
    """One second of a run, `at` seconds after its beginning."""

    at: float
    bytes_per_second: float
    calls_per_second: float
    rss: int
    descriptors: int
    threads: int
    tasks: int


@dataclass(frozen=True, slots=True)
class Trend:
    """One measure of the process over a run. `before` and `after` are without the store's connector."""

    what: str
    before: float
    median: float
    most: float
    growth: float
    after: float

    @property
    def is_flat(self) -> bool:
        """Whether it has neither grown nor stayed."""
        spare = SPARE[self.what]
        return self.growth <= spare and (self.what == "rss" or self.after <= self.before + spare)


@dataclass(frozen=True, slots=True)
class OperationRow:
    """What one operation did. Times are seconds, of the calls that returned."""

    operation: str
    calls: int
    failed: int
    p50: float
    p99: float
    longest: float


@dataclass(frozen=True)
class SoakReport:
    """A run. `store` is a redacted URL. Times are seconds, rates bytes and calls per second.

    `stopped`: Ctrl-C or a signal ended it early. `most_bytes` is what the keys together may have held at most.
    """

    store: str
    server: str | None
    seed: int
    tasks: int
    chaos: bool
    asked_seconds: float
    seconds: float
    stopped: bool
    operations: tuple[OperationRow, ...]
    cancelled: int
    values: int
    nbytes: int
    missing: int
    older: int
    wrong: tuple[str, ...]
    wrong_count: int
    late: tuple[str, ...]
    late_count: int
    latest: float
    unexplained: tuple[str, ...]
    unexplained_count: int
    errors: tuple[tuple[str, int], ...]
    most_bytes: int
    calm_bytes_per_second: float
    calls_per_second: float
    faults: tuple[FaultRun, ...]
    recoveries: tuple[Recovery, ...]
    recovery_limit: float | None
    trends: tuple[Trend, ...]
    arena_left: int
    loop_lag: float
    thread_lag: float
    keys_left: int
    timeline: tuple[Second, ...]

    @property
    def ok(self) -> bool:
        """Whether everything is as it should be."""
        return not self.complaints

    @property
    def complaints(self) -> tuple[str, ...]:
        """What is not as it should be, one sentence each."""
        found: list[str] = []
        if self.wrong_count:
            found.append(f"{self.wrong_count} wrong answers")
        if self.late_count:
            found.append(f"{self.late_count} calls ended after their deadline")
        if self.unexplained_count:
            found.append(f"{self.unexplained_count} errors that no fault of a store explains")
        # Own servers have no limit: there, a failover has lost the pieces of a chunk that was being put.
        if (full := dict(self.errors).get("StoreFullError")) and self.server is None:
            found.append(f"the store was full, and refused {full:,} calls")
        if not self.values:
            found.append("no value came back, so nothing was verified")
        found += [f"{trend.what} is not flat" for trend in self.trends if not trend.is_flat]
        if self.arena_left:
            found.append(f"{self.arena_left} bytes of the arena were not released")
        if self.recovery_limit is not None and (slow := self.slow_recoveries):
            found.append(f"{slow} of {len(self.recoveries)} recoveries took more than {self.recovery_limit:g} s")
        return tuple(found)

    @property
    def slow_recoveries(self) -> int:
        """Recoveries beyond the limit, 2 seconds where none was given."""
        limit = 2.0 if self.recovery_limit is None else self.recovery_limit
        return sum(one.seconds is None or one.seconds > limit for one in self.recoveries)

    @property
    def median_recovery(self) -> float | None:
        """The median over all faults; None where there was not one recovery."""
        known = [one.seconds for one in self.recoveries if one.seconds is not None]
        return statistics.median(known) if known else None

    @property
    def worst_recovery(self) -> float | None:
        """The longest; None where there was not one recovery, or one was not complete."""
        known = [one.seconds for one in self.recoveries]
        return None if not known or None in known else max(one for one in known if one is not None)
