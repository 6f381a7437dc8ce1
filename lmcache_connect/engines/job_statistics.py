"""`JobStatistics`: what a port's jobs have done so far."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from .job import KINDS, JobKind


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
    seconds: float = 0.0
    """The sum of the jobs' seconds, from submission to end."""
    in_flight: int = 0
    """The jobs that have not ended."""
    failures: Counter[str] = field(default_factory=Counter)
    """The jobs that failed as a whole, by the class of the error, or one of the words of `JobPort`."""


@dataclass(slots=True)
class JobStatistics:
    """The counters of one port, or a copy of them."""

    kinds: dict[JobKind, KindStatistics] = field(default_factory=lambda: {kind: KindStatistics() for kind in KINDS})
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

    def copy(self) -> JobStatistics:
        """A copy, which does not change any more."""
        kinds = {name: dataclasses.replace(kind, failures=Counter(kind.failures)) for name, kind in self.kinds.items()}
        return dataclasses.replace(self, kinds=kinds)

    def document(self) -> dict[str, Any]:
        """The counters as plain data, for an engine's status."""
        return {
            "in_flight": self.in_flight,
            "shed_jobs": self.shed_jobs,
            "shed_bytes": self.shed_bytes,
            "waiting_store_bytes": self.waiting_store_bytes,
            **{
                name: {**dataclasses.asdict(kind), "failures": dict(kind.failures)} for name, kind in self.kinds.items()
            },
        }
