"""The circuit breaker: a pure decision about whether a store may be called now."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final


class BreakerState(Enum):
    """`closed` lets calls through, `open` none, `half_open` one as a probe."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Admission:
    """One operation's leave to start, which its verdict is given with."""

    __slots__ = ()


_ORDINARY: Final = Admission()
"""While the breaker is closed no call differs from another."""


class CircuitBreaker:
    """Opens after `failures` failed operations in a row; after `reset` seconds one probe decides.

    `clock` gives seconds that only grow. Not thread-safe: it belongs to one event loop.
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
        """Leave for an operation to start, or None. It is given back with one `succeeded`, `failed` or `abandoned`.

        An operation that starts without leave gives its verdict with None.
        """
        match self.state:
            case BreakerState.CLOSED:
                return _ORDINARY
            case BreakerState.HALF_OPEN:
                self._probe = Admission()
                return self._probe
            case BreakerState.OPEN:
                return None

    def succeeded(self, admission: Admission | None) -> None:
        """The store answered. Whichever operation saw that, the breaker closes."""
        self.failures = 0
        self._opened_at = None
        self._probe = None

    def failed(self, admission: Admission | None) -> None:
        """The store did not answer."""
        self.failures += 1
        # Calls from before it opened may fail long after: they must neither put the next probe off nor end one.
        if self._end_probe(admission) or (self._opened_at is None and self.failures >= self._limit):
            self._opened_at = self._clock()

    def abandoned(self, admission: Admission | None) -> None:
        """The operation ended without telling anything about the store: its caller cancelled it, say."""
        self._end_probe(admission)

    def reset(self) -> None:
        """Closes, whatever was seen: what is called from now on is another connection."""
        self.succeeded(None)

    def _end_probe(self, admission: Admission | None) -> bool:
        if admission is None or admission is not self._probe:
            return False
        self._probe = None
        return True
