"""The circuit breaker: a pure decision about whether a store may be called now."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final


class BreakerState(Enum):
    """`closed` lets all calls through, `open` none, `half_open` one, as a probe.

    Where look-ups are answered and transfers are not known to work, `half_open` lets look-ups through as well.
    """

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Admission:
    """One operation's permission to start. Its verdict, given with it, may be the one that a probe was made for."""

    __slots__ = ()


ORDINARY: Final = Admission()
"""The permission of every operation that starts while the breaker is closed."""


class CircuitBreaker:
    """Opens after `failures` failed operations in a row. After `reset` seconds one probe decides.

    A transfer is an operation that moves the bytes of chunks; all others are look-ups here. A look-up that is answered
    says nothing about transfers, which may stall on a path that small messages pass. So it neither forgets failed
    transfers nor closes a breaker that they have opened. Then look-ups pass, and one transfer every `reset` seconds, as
    a trial, until a transfer succeeds. A trial that was answered and moved nothing, because the store does not hold the
    chunk, makes way for the next one at once.

    A verdict is one call of `succeeded`, `answered`, `failed` or `abandoned`. `clock` returns monotonic seconds. Not
    thread-safe: it belongs to one event loop.
    """

    def __init__(self, failures: int, reset: float, clock: Callable[[], float]) -> None:
        self._limit = failures
        self._reset = reset
        self._clock = clock
        self._opened_at: float | None = None
        self._probe: Admission | None = None
        self._trial: Admission | None = None
        self._failed_transfers = 0
        self._are_lookups_answered = False
        """Whether look-ups pass although it is open."""
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

    def admit(self, *, is_transfer: bool = True) -> Admission | None:
        """Returns the permission for an operation to start, or None. One that starts gives one verdict with it.

        An operation that starts without permission gives its verdict with None.
        """
        if self._opened_at is None or (self._are_lookups_answered and not is_transfer):
            return ORDINARY
        if self.state is BreakerState.OPEN:
            return None
        self._probe = Admission()
        return self._probe

    def is_probe(self, admission: Admission | None) -> bool:
        """Whether this is the permission of the probe that is under way."""
        return admission is not None and admission is self._probe

    def succeeded(self, admission: Admission | None) -> None:
        """A transfer moved bytes. The breaker closes, whether or not this operation was the probe."""
        self.failures = self._failed_transfers = 0
        self._opened_at = None
        self._probe = self._trial = None
        self._are_lookups_answered = False

    def answered(self, admission: Admission | None) -> None:
        """The store answered something small. The breaker closes, unless transfers have failed since one succeeded."""
        if not self._failed_transfers:
            self.succeeded(admission)
            return
        self.failures = self._failed_transfers
        if self._opened_at is not None:
            self._are_lookups_answered = True
            if admission is not None and admission is self._trial:
                self._trial = None
                self._opened_at = self._clock() - self._reset
        self._end_probe(admission)

    def on_trial(self, admission: Admission | None) -> None:
        """The store answered the look-up that goes before a transfer, so the probe is over. The transfer is a trial.

        A trial may take long. The next one is let through after `reset` seconds, whether or not it has ended.
        """
        if self._end_probe(admission):
            self._opened_at = self._clock()
            self._trial = admission
            self._are_lookups_answered = True

    def failed(self, admission: Admission | None, *, is_transfer: bool = True) -> None:
        """The store did not answer."""
        self.failures += 1
        if is_transfer:
            self._failed_transfers += 1
        else:
            self._are_lookups_answered = False
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
