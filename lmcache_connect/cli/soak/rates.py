"""`Rates`: how many bytes and calls were done in each tenth of a second of a run."""

from __future__ import annotations

from array import array
from typing import Final

BIN: Final = 0.1
"""The width of a bin in seconds."""


class Rates:
    """Bins of a whole run, all made at once: what grows while a run is measured would be taken for a leak.

    A call's bytes are spread evenly over the time from its beginning to its end. Counted at its end alone, one large
    chunk would look like a second without load and then one with twice as much.
    """

    def __init__(self, begun: float, seconds: float) -> None:
        """`begun` is in monotonic time. What comes after `seconds` is counted in the last bin."""
        self.begun: Final = begun
        count = int(seconds / BIN) + 2
        self._bytes = array("d", bytes(8 * count))
        self._calls = array("L", bytes(array("L").itemsize * count))

    def add(self, begun: float, ended: float, nbytes: int) -> None:
        """Counts a call that returned."""
        self._calls[self._place(ended)] += 1
        if not nbytes:
            return
        first, last = self._place(begun), self._place(ended)
        if first == last:
            self._bytes[first] += nbytes
            return
        rate = nbytes / (ended - begun)
        self._bytes[first] += rate * (self.begun + (first + 1) * BIN - begun)
        for place in range(first + 1, last):
            self._bytes[place] += rate * BIN
        self._bytes[last] += max(0.0, rate * (ended - self.begun - last * BIN))

    def bytes_per_second(self, start: float, end: float) -> float:
        """The mean rate between two times since the beginning, in whole bins. They are at least a bin apart."""
        first, last = self._within(start, end)
        return sum(self._bytes[first:last]) / ((last - first) * BIN)

    def calls_per_second(self, start: float, end: float) -> float:
        """The same of calls."""
        first, last = self._within(start, end)
        return sum(self._calls[first:last]) / ((last - first) * BIN)

    def _within(self, start: float, end: float) -> tuple[int, int]:
        first = min(max(0, round(start / BIN)), len(self._bytes) - 1)
        return first, max(first + 1, min(round(end / BIN), len(self._bytes)))

    def _place(self, when: float) -> int:
        return min(max(0, int((when - self.begun) / BIN)), len(self._bytes) - 1)
