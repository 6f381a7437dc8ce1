"""The samples of one run, and their summary for a report."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Work = tuple[str, int]
"""What was measured, with its unit, and the chunk's bytes, or 0 for work without chunks."""


def stolen_seconds() -> float:
    """Seconds that the hypervisor has taken from this machine's CPUs, all together, since it began; 0 where that is not
    known. Linux counts them in hundredths."""
    try:
        with open("/proc/stat", encoding="ascii") as stat:
            return int(stat.readline().split()[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return 0.0


class Clock:
    """Wall and CPU seconds of a block. CPU seconds are those of this process, all threads: the client's, not the
    server's."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Takes the block's time."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall = time.perf_counter() - wall
        self.cpu = time.process_time() - cpu


@dataclass
class Samples:
    """Every measured value, by work and contender."""

    values: dict[Work, dict[str, list[float]]] = field(default_factory=dict)

    def note(self, work: str, chunk_bytes: int, name: str, value: float) -> None:
        """Keeps one value."""
        self.values.setdefault((work, chunk_bytes), {}).setdefault(name, []).append(value)

    def transfer(self, verb: str, chunk_bytes: int, name: str, nbytes: int, wall: float, cpu: float) -> None:
        """Keeps the GB/s and the CPU seconds per GB of a transfer of `nbytes`. A GB is 10^9 bytes."""
        self.note(f"{verb} GB/s", chunk_bytes, name, nbytes / 1e9 / wall)
        self.note(f"{verb} CPU s/GB", chunk_bytes, name, cpu / (nbytes / 1e9))

    def results(self, chunks: dict[int, int]) -> list[dict[str, Any]]:
        """One entry for each work: `values` has medians, and the lowest and highest value, by name."""
        return [
            {
                "work": work,
                "chunk_bytes": chunk_bytes,
                "chunks": chunks.get(chunk_bytes, 0),
                "values": {name: _summary(work, values) for name, values in by_name.items()},
            }
            for (work, chunk_bytes), by_name in sorted(self.values.items())
        ]


def _summary(work: str, values: list[float]) -> dict[str, float]:
    summary = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    if work.endswith(" ms") and len(values) > 1:
        percentiles = statistics.quantiles(values, n=100, method="inclusive")
        summary |= {"p50": percentiles[49], "p99": percentiles[98]}
    return summary
