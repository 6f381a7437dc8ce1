"""`Recent`: what was counted in the last minute on one connector, from copies of its counters."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from ..managed import ManagedConnector
from ..observability import OperationStatistics

WINDOW: Final = 60.0
"""Seconds that are looked back."""

_STEP: Final = 5.0
"""Seconds between two copies that are kept."""


@dataclass(frozen=True)
class RecentCounts:
    """What was counted in the last `seconds`. It is empty, with 0 seconds, when nobody has looked before."""

    seconds: float = 0.0
    operations: Mapping[str, OperationStatistics] = field(default_factory=dict)
    """By operation; those without a call are left out."""

    def total(self, names: Iterable[str]) -> OperationStatistics:
        """The sum of the operations with these names."""
        total = OperationStatistics()
        for name in names:
            if (counted := self.operations.get(name)) is not None:
                total.add(counted)
        return total


class Recent:
    """Keeps copies of one connector's counters, at most one each five seconds, for a minute.

    The minute is looked back as far as somebody has looked: nothing runs meanwhile. Belongs to one thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: deque[tuple[float, Mapping[str, OperationStatistics]]] = deque()

    def look(self, connector: ManagedConnector) -> RecentCounts:
        """What was counted since the oldest copy that is at most a minute old."""
        now, counted = self._clock(), connector.statistics()
        while len(self._kept) > 1 and now - self._kept[0][0] > WINDOW:
            self._kept.popleft()
        if not self._kept or now - self._kept[-1][0] >= _STEP:
            self._kept.append((now, counted))
        then, before = self._kept[0]
        if now - then > 2 * WINDOW:  # nobody has looked for long: what was counted since is not recent
            self._kept.clear()
            self._kept.append((now, counted))
            return RecentCounts()
        nothing = OperationStatistics()
        changes = {name: each.since(before.get(name, nothing)) for name, each in counted.items()}
        return RecentCounts(now - then, {name: each for name, each in changes.items() if each.calls or each.in_flight})
