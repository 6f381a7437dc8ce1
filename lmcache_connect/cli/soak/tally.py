"""`Tally`: what the calls of a run have shown."""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

_MOST: Final = 50
"""So many findings of a kind are kept in words. All are counted."""

_BUCKETS_PER_DOUBLING: Final = 8


class Tally:
    """Counts, and the first findings in words. For one event loop."""

    def __init__(self) -> None:
        self.calls: Final[Counter[str]] = Counter()
        """Calls that returned, by operation."""
        self.failed: Final[Counter[str]] = Counter()
        """Calls that raised, by operation."""
        self.cancelled = 0
        self.errors: Final[Counter[str]] = Counter()
        """What calls raised, by class."""
        self.values = 0
        """Values that were compared, byte for byte."""
        self.nbytes = 0
        """Bytes that were compared."""
        self.missing = 0
        """Gets that found nothing although the value had been put and not removed."""
        self.older = 0
        """Values older than the last acknowledged one, after a failover: replication is asynchronous."""
        self.wrong: Final[list[str]] = []
        """Wrong values, values that are lost without a reason, and memory of the caller that was touched."""
        self.wrong_count = 0
        self.late: Final[list[str]] = []
        """Calls that ended too late."""
        self.late_count = 0
        self.latest = 0.0
        """The largest lateness in seconds, without the machine's."""
        self.unexplained: Final[list[str]] = []
        """Errors that no store's fault explains."""
        self.unexplained_count = 0
        self._times: dict[str, Counter[int]] = {}

    def found_wrong(self, text: str) -> None:
        """Notes that something is wrong."""
        self.wrong_count += 1
        if len(self.wrong) < _MOST:
            self.wrong.append(text)

    def found_late(self, text: str) -> None:
        """Notes that a call ended too late."""
        self.late_count += 1
        if len(self.late) < _MOST:
            self.late.append(text)

    def found_unexplained(self, text: str) -> None:
        """Notes an error that no store's fault explains."""
        self.unexplained_count += 1
        if len(self.unexplained) < _MOST:
            self.unexplained.append(text)

    def took(self, operation: str, seconds: float) -> None:
        """Takes the time of a call that returned."""
        bucket = round(math.log2(max(seconds, 1e-6)) * _BUCKETS_PER_DOUBLING)
        self._times.setdefault(operation, Counter())[bucket] += 1

    def percentile(self, operation: str, share: float) -> float:
        """The time in seconds that a `share` of the calls that returned did not exceed, to about a tenth."""
        buckets = self._times.get(operation, Counter())
        wanted = share * buckets.total()
        seen = 0
        for bucket in sorted(buckets):
            seen += buckets[bucket]
            if seen >= wanted:
                return float(2 ** (bucket / _BUCKETS_PER_DOUBLING))
        return 0.0
