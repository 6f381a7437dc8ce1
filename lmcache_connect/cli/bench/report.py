"""`BenchReport`: what a benchmark has measured."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from .measuring import Samples
from .plan import Mode, Operation

_ENOUGH = {50: 1, 95: 20, 99: 100}
"""How many calls a percentile needs at least, in per cent."""


@dataclass(frozen=True)
class Figures:
    """What one store did in one row: all rounds together. Times are seconds.

    `rates` are bytes per second of each round, and `key_rates` keys per second. A percentile is None where too few
    calls were made for it.
    """

    calls: int
    keys: int
    nbytes: int
    rates: tuple[float, ...]
    key_rates: tuple[float, ...]
    p50: float | None
    p95: float | None
    p99: float | None
    cpu_per_gb: float | None
    """CPU seconds of this process for each GB (10^9 bytes). None where no bytes were moved."""

    @property
    def rate(self) -> float:
        """Bytes per second: the median of the rounds."""
        return statistics.median(self.rates)

    @property
    def key_rate(self) -> float:
        """Keys per second: the median of the rounds."""
        return statistics.median(self.key_rates)

    @classmethod
    def of(cls, rounds: Sequence[Samples]) -> Figures:
        """Returns the figures of rounds, each of which has made at least one call."""
        latencies = sorted(latency for samples in rounds for latency in samples.latencies)
        nbytes = sum(samples.nbytes for samples in rounds)
        cpu = sum(samples.cpu for samples in rounds)
        return cls(
            len(latencies),
            sum(samples.keys for samples in rounds),
            nbytes,
            tuple(samples.nbytes / samples.seconds for samples in rounds),
            tuple(samples.keys / samples.seconds for samples in rounds),
            _percentile(latencies, 50),
            _percentile(latencies, 95),
            _percentile(latencies, 99),
            cpu / (nbytes / 1e9) if nbytes else None,
        )


def _percentile(ordered: Sequence[float], share: int) -> float | None:
    if len(ordered) < _ENOUGH[share]:
        return None
    return ordered[min(len(ordered) - 1, len(ordered) * share // 100)]


@dataclass(frozen=True)
class Row:
    """One operation, by size and mode. `nbytes` is 0 for look-ups. `other` is of the store of `--against`."""

    operation: Operation
    nbytes: int
    mode: Mode
    figures: Figures
    other: Figures | None = None

    @property
    def ratio(self) -> float | None:
        """How many times as fast the store is as the other one. None where there is no other one."""
        if self.other is None:
            return None
        own, others = self.figures, self.other
        return own.rate / others.rate if self.nbytes else own.key_rate / others.key_rate


@dataclass(frozen=True)
class BenchReport:
    """All rows. `store` and `against` are redacted URLs. Sizes are bytes.

    `problems` counts what came back wrong, by its text. `left_out`: a size, how it was to be called, and the option
    that would have to be larger.
    """

    store: str
    against: str | None
    rows: tuple[Row, ...]
    left_out: tuple[tuple[int, str, str], ...]
    moved: int
    verified: int
    problems: dict[str, int]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether everything came back as it was put."""
        return not self.problems
