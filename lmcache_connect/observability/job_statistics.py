"""`JobStatistics`: what the jobs of a port have done so far."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from .histogram import Histogram

JobKind = Literal["get", "put", "exists", "remove"]
JOB_KINDS: Final[tuple[JobKind, ...]] = ("get", "put", "exists", "remove")


@dataclass(slots=True)
class KindStatistics:
    """Counters of the jobs of one kind. They never fall, but for `in_flight`."""

    jobs: int = 0
    """The jobs that have ended, whatever became of them."""
    keys: int = 0
    """Their keys."""
    succeeded: int = 0
    """The keys whose flag is True."""
    missed: int = 0
    """The keys whose flag is False although their job has not failed: absent, damaged, or not stored."""
    nbytes: int = 0
    """The bytes of the keys that succeeded."""
    times: Histogram = field(default_factory=Histogram)
    """The jobs' seconds, from submission to end."""
    in_flight: int = 0
    """The jobs that have not ended."""
    failures: Counter[str] = field(default_factory=Counter)
    """The jobs that failed as a whole, by the class of the error, or one of the words of `JobPort`."""

    @property
    def seconds(self) -> float:
        """The sum of the jobs' seconds."""
        return self.times.sum

    def add(self, other: KindStatistics) -> None:
        """Adds the counts of other jobs."""
        self.jobs += other.jobs
        self.keys += other.keys
        self.succeeded += other.succeeded
        self.missed += other.missed
        self.nbytes += other.nbytes
        self.times.add(other.times)
        self.in_flight += other.in_flight
        self.failures.update(other.failures)

    def document(self) -> dict[str, Any]:
        """The counters as plain data."""
        return {
            "jobs": self.jobs,
            "keys": self.keys,
            "succeeded": self.succeeded,
            "missed": self.missed,
            "nbytes": self.nbytes,
            "seconds": self.seconds,
            "in_flight": self.in_flight,
            "failures": dict(self.failures),
        }


@dataclass(slots=True)
class JobStatistics:
    """The counters of one port or of several, or a copy of them."""

    kinds: dict[JobKind, KindStatistics] = field(default_factory=lambda: {kind: KindStatistics() for kind in JOB_KINDS})
    """The counters, by kind of job."""
    shed_jobs: int = 0
    """Stores that were refused because too many bytes waited. They are among the failures as `shed`."""
    shed_bytes: int = 0
    """The bytes of those."""
    waiting_store_bytes: int = 0
    """The bytes of stores that have not begun."""

    @property
    def in_flight(self) -> int:
        """The jobs of any kind that have not ended."""
        return sum(kind.in_flight for kind in self.kinds.values())

    def add(self, other: JobStatistics) -> None:
        """Adds the counts of other jobs."""
        for name, kind in other.kinds.items():
            self.kinds[name].add(kind)
        self.shed_jobs += other.shed_jobs
        self.shed_bytes += other.shed_bytes
        self.waiting_store_bytes += other.waiting_store_bytes

    def copy(self) -> JobStatistics:
        """A copy, which does not change any more."""
        twin = JobStatistics()
        twin.add(self)
        return twin

    def document(self) -> dict[str, Any]:
        """The counters as plain data, for an engine's status."""
        return {
            "in_flight": self.in_flight,
            "shed_jobs": self.shed_jobs,
            "shed_bytes": self.shed_bytes,
            "waiting_store_bytes": self.waiting_store_bytes,
            **{name: kind.document() for name, kind in self.kinds.items()},
        }
