"""`Case`: one thing that is measured, and the bar that it has to reach."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

KIB: Final = 1 << 10
MIB: Final = 1 << 20

PARTS: Final = ("together", "one-batch", "memory", "one", "threads", "busy")
AGAINST_BATCH: Final = {"one-batch": "alone", "memory": "caller"}
"""The parts that compare rates with those of one batch, and what they call the other way."""
STORES: Final = ("redis", "s3")
BATCHES: Final = {128 * KIB: 512, MIB: 128, 4 * MIB: 32, 32 * MIB: 8}
"""Chunk size in bytes -> chunks in a batch: 64 to 256 MiB."""


@dataclass(frozen=True)
class Case:
    """One kind of call.

    `calls` is how many run at the same time, or, of the part `threads`, the number of threads. `bar` is the largest
    ratio of times, and of `AGAINST_BATCH` the smallest ratio of rates, that is good enough.
    """

    part: str
    operation: str
    nbytes: int
    """Of one chunk; 0 for a look-up."""
    calls: int
    bar: float
    store: str = "redis"
    regions: int = 1
    """Of the caller's memory, for each chunk. Of the part `memory`."""

    @property
    def title(self) -> str:
        """What it is called in tables."""
        what = f"{self.operation} {shown(self.nbytes)}" if self.nbytes else self.operation
        if self.part == "together":
            return f"{self.calls:,} × {what}"
        if self.part == "memory":
            in_regions = f" in {self.regions} regions" if self.regions > 1 else ""
            return f"{self.store}: {self.operation} {self.calls} × {shown(self.nbytes)}{in_regions}"
        if self.part == "one-batch":
            return f"{self.store}: {self.operation} {self.calls} × {shown(self.nbytes)}"
        if self.part == "threads":
            return f"sync.{what}, {self.calls} thread{'s' if self.calls > 1 else ''}"
        return what


def shown(nbytes: int) -> str:
    """A size in binary units."""
    return f"{nbytes // MIB} MiB" if nbytes >= MIB else f"{nbytes // KIB} KiB"


def cases(parts: Sequence[str], stores: Sequence[str] = STORES) -> list[Case]:
    """Every case of the parts, in the order of the tables. `stores` selects those of `AGAINST_BATCH`."""
    return [
        case
        for part in PARTS
        if part in parts
        for case in _of(part)
        if case.store in stores or part not in AGAINST_BATCH
    ]


def _of(part: str) -> Iterator[Case]:
    if part == "together":
        for operation, nbytes in (("exists", 0), ("get", 4 * KIB), ("get", 64 * KIB)):
            for calls in (100, 1000):
                yield Case(part, operation, nbytes, calls, 1.0)
    elif part == "one-batch":
        for store in STORES:
            for operation in ("get", "put"):
                for nbytes, chunks in BATCHES.items():
                    yield Case(part, operation, nbytes, chunks, 0.85, store)
    elif part == "memory":
        for store in STORES:
            for operation, bar in (("get", 1.0), ("put", 0.95)):
                for nbytes, chunks in BATCHES.items():
                    yield Case(part, operation, nbytes, chunks, bar, store)
                yield Case(part, operation, MIB, BATCHES[MIB], 0.6, store, regions=128)
    elif part == "one":
        for operation, nbytes in (("exists", 0), ("get", 64 * KIB), ("put", 64 * KIB)):
            yield Case(part, operation, nbytes, 1, 0.9)
    elif part == "threads":
        for operation, nbytes in (("exists", 0), ("get", 64 * KIB)):
            yield Case(part, operation, nbytes, 1, 2.5)
            yield Case(part, operation, nbytes, 16, 1.0)
    else:
        yield Case("busy", "exists", 0, 1, 3.0)
