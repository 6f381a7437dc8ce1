"""The circuit breaker: a pure decision about whether a store may be called now."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum


class BreakerState(Enum):
    """`closed` lets calls through, `open` none, `half_open` one as a probe."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """Opens after `failures` failed operations in a row; after `reset` seconds one probe decides.

    `clock` gives seconds that only grow. Not thread-safe: it belongs to one event loop.
    """

    def __init__(self, failures: int, reset: float, clock: Callable[[], float]) -> None:
        self._limit = failures
        self._reset = reset
        self._clock = clock
        self._opened_at: float | None = None
        self._probing = False
        self.failures = 0
        """Failed operations since the last success."""

    @property
    def state(self) -> BreakerState:
        """The state now."""
        if self._opened_at is None:
            return BreakerState.CLOSED
        if self._probing or self.retry_in > 0:
            return BreakerState.OPEN
        return BreakerState.HALF_OPEN

    @property
    def retry_in(self) -> float:
        """Seconds until a probe is let through; 0 when one would be."""
        if self._opened_at is None:
            return 0.0
        return max(0.0, self._opened_at + self._reset - self._clock())

    def admit(self) -> bool:
        """Whether an operation may start. Each True is answered by one `succeeded`, `failed` or `abandoned`."""
        state = self.state
        if state is BreakerState.HALF_OPEN:
            self._probing = True
        return state is not BreakerState.OPEN

    def succeeded(self) -> None:
        """The store answered."""
        self.failures = 0
        self._opened_at = None
        self._probing = False

    def failed(self) -> None:
        """The store did not answer."""
        self.failures += 1
        # Calls admitted before it opened may fail long after: they must not put the next probe off.
        if self._probing or (self._opened_at is None and self.failures >= self._limit):
            self._opened_at = self._clock()
        self._probing = False

    def abandoned(self) -> None:
        """The operation ended without telling anything about the store: its caller cancelled it, say."""
        self._probing = False
