"""The circuit breaker: a pure decision about whether a store may be called now."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final


class BreakerState(Enum):
    """`closed` lets all calls through, `open` none, `half_open` one, as a probe."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Admission:
    """One operation's permission to start. Its verdict, given with it, may be the one that a probe was made for."""

    __slots__ = ()


_ORDINARY: Final = Admission()
"""The permission of every operation that starts while the breaker is closed."""


class CircuitBreaker:
    """Opens after `failures` failed operations in a row. After `reset` seconds one probe decides.

    A verdict is one call of `succeeded`, `failed` or `abandoned`. `clock` returns monotonic seconds. Not thread-safe:
    it belongs to one event loop.
    """

    def __init__(self, failures: int, reset: float, clock: Callable[[], float]) -> None:
        self._limit = failures
        self._reset = reset
        self._clock = clock
        self._opened_at: float | None = None
        self._probe: Admission | None = None
        self.failures = 0
        """Failed operations since the last success."""

    @property
    def state(self) -> BreakerState:
        """The state now."""
        if self._opened_at is None:
            return BreakerState.CLOSED
        if self._probe is not None or self.retry_in > 0:
            return BreakerState.OPEN
        return BreakerState.HALF_OPEN

    @property
    def retry_in(self) -> float:
        """Seconds until a probe is let through; 0 when one would be."""
        if self._opened_at is None:
            return 0.0
        return max(0.0, self._opened_at + self._reset - self._clock())

    def admit(self) -> Admission | None:
        """Returns the permission for an operation to start, or None. One that starts gives one verdict with it.

        An operation that starts without permission gives its verdict with None.
        """
        if self._opened_at is None:
            return _ORDINARY
        if self.state is BreakerState.OPEN:
            return None
        self._probe = Admission()
        return self._probe

    def succeeded(self, admission: Admission | None) -> None:
        """The store answered. The breaker closes, whether or not this operation was the probe."""
        self.failures = 0
        self._opened_at = None
        self._probe = None

    def failed(self, admission: Admission | None) -> None:
        """The store did not answer."""
        self.failures += 1
        # Calls that began before it opened may fail long after. They must neither delay the next probe nor end one.
        if self._end_probe(admission) or (self._opened_at is None and self.failures >= self._limit):
            self._opened_at = self._clock()

    def abandoned(self, admission: Admission | None) -> None:
        """The operation ended and says nothing about the store: its caller cancelled it, for example."""
        self._end_probe(admission)

    def reset(self) -> None:
        """Closes, because further calls go over another connection."""
        self.succeeded(None)

    def _end_probe(self, admission: Admission | None) -> bool:
        if admission is None or admission is not self._probe:
            return False
        self._probe = None
        return True
