"""`Histogram`: counts of latencies by range, cheap enough to update on every call."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

LATENCY_BOUNDS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
"""Upper bounds in seconds, from a look-up on the same host to the deadline of a transfer of gigabytes."""


class Histogram:
    """Counts of values by upper bound, and the sum of all values. The last count is of values above every bound.

    Only one thread at a time may add values. Any thread may copy.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = LATENCY_BOUNDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    @property
    def count(self) -> int:
        """The number of values."""
        return sum(self.counts)

    def observe(self, value: float) -> None:
        """Adds one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def add(self, other: Histogram) -> None:
        """Adds the counts of another histogram with the same bounds."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum

    def since(self, earlier: Histogram) -> Histogram:
        """The values that were added after `earlier` was copied from this one."""
        rest = Histogram(self.bounds)
        rest.counts = [now - then for now, then in zip(self.counts, earlier.counts, strict=True)]
        rest.sum = self.sum - earlier.sum
        return rest

    def quantile(self, share: float) -> float | None:
        """The value that `share` of the values are at most, 0 to 1, guessed between two bounds; None without values.

        For values above every bound it is the highest bound.
        """
        left = share * self.count
        if not self.count:
            return None
        lower = 0.0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            if count and left <= count:
                return lower + (bound - lower) * left / count
            left -= count
            lower = bound
        return self.bounds[-1]

    def copy(self) -> Histogram:
        """A copy that later values do not change."""
        twin = Histogram(self.bounds)
        twin.counts = list(self.counts)
        twin.sum = self.sum
        return twin

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        return (self.bounds, self.counts, self.sum) == (other.bounds, other.counts, other.sum)

    __hash__ = None  # type: ignore[assignment]  # it is mutable

    def __repr__(self) -> str:
        return f"<Histogram of {self.count} values, {self.sum:g} in all>"
