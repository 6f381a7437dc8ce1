"""`LoopCaller` and `ThreadCaller`: make one call, end it early perhaps, and hold it to its deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from lmcache_connect import ConnectorConfig, LMCacheConnectError, ManagedConnector, MemoryObj
from lmcache_connect.errors import ArenaExhaustedError, StoreError, SyncTimeoutError
from lmcache_connect.testing import Lag, seconds_allowed, watch_call

from .journal import Journal

SLACK: Final = 0.5
"""Seconds after its deadline that a call may end, and seconds that a cancelled one may take to end."""

SETTINGS: Final = ConnectorConfig.load(
    operation_timeout=5,
    min_throughput=64 << 20,
    stall_timeout=2,
    allocate_timeout=3,
    retries=1,
    breaker_failures=20,
    breaker_reset=0.2,
    announce_interval=0,
)


@dataclass(slots=True)
class Outcome:
    """How a call ended, where it has. `value` is its result where it is `ok`."""

    ok: bool
    value: Any = None
    has_ended: bool = True


class Caller:
    """What both have in common. `store` is the name under which calls are counted."""

    def __init__(self, store: str, connector: ManagedConnector, journal: Journal, lags: Sequence[Lag]) -> None:
        self.store: Final = store
        self.journal: Final = journal
        self._connector = connector
        self._lags = lags

    async def call(self, operation: str, *args: Any, end_after: float | None = None) -> Outcome:
        """Calls the connector's method. `end_after`: seconds after which the call is ended early."""
        raise NotImplementedError

    def _ended(
        self, operation: str, begun: float, due: float, ended: float, what: str, *, cancelled: bool = False
    ) -> None:
        """Counts a call, which should have ended at `due`, and says so where it was later than it may be."""
        self.journal.count(f"{self.store} {operation} {what}")
        if cancelled:
            self.journal.took("a cancelled call's end", ended - due)
        else:
            self.journal.took(operation, ended - begun)
        late = ended - due
        if late <= 0:
            return
        # The sum: a call passes through the loop and through threads one after the other, and each may have to wait.
        lag = sum(lag.between(due, ended) for lag in self._lags)
        kind = "cancelled" if cancelled else "late"
        self.journal.measure(f"{kind}, as measured", late)
        self.journal.measure(f"{kind}, without the lag of the machine", max(0.0, late - lag))
        if late - lag > SLACK:
            self.journal.violate(
                f"{self.store} {operation} ended {late:.2f} s after its {'cancellation' if cancelled else 'deadline'}, "
                f"of which the loop and the machine were late {lag:.2f} s ({what})"
            )

    def _failed(self, operation: str, error: BaseException) -> str:
        if not isinstance(error, (StoreError, ArenaExhaustedError, SyncTimeoutError)):
            text = f"{type(error).__name__}: {error}"
            self.journal.violate(f"{self.store} {operation} raised what no store's fault explains: {text}")
        return type(error).__name__


class LoopCaller(Caller):
    """Awaits the connector's methods, on its own event loop or on another."""

    async def call(self, operation: str, *args: Any, end_after: float | None = None) -> Outcome:
        done = await watch_call(self._connector, SETTINGS, self._lag, operation, *args, end_after=end_after)
        if not done.has_ended:
            self.journal.violate(f"{self.store} {operation} has not ended long after it had to")
            return Outcome(False, has_ended=False)
        if isinstance(done.error, asyncio.CancelledError):
            what = "cancelled"
        else:
            what = "ok" if done.error is None else self._failed(operation, done.error)
        self._ended(operation, done.begun, done.due, done.ended, what, cancelled=done.is_cancelled)
        return Outcome(True, done.value) if done.ok else Outcome(False)

    def _lag(self, start: float, end: float) -> float:
        return sum(lag.between(start, end) for lag in self._lags)


class ThreadCaller(Caller):
    """Calls `connector.sync`, and blocks its thread. A call is ended early by its `timeout`."""

    async def call(self, operation: str, *args: Any, end_after: float | None = None) -> Outcome:
        seconds = seconds_allowed(SETTINGS, operation, *args)
        begun = time.monotonic()
        value: Any = None
        try:
            value = getattr(self._connector.sync, operation)(*args, timeout=end_after)
            what = "ok"
        except LMCacheConnectError as error:
            what = self._failed(operation, error)
        ended = time.monotonic()
        cancelled = what == "SyncTimeoutError" and end_after is not None
        due = begun + (end_after if cancelled and end_after is not None else seconds)
        self._ended(f"sync.{operation}", begun, due, ended, what, cancelled=cancelled)
        return Outcome(what == "ok", value)


def release(found: Sequence[MemoryObj | None]) -> None:
    """Releases chunks."""
    for obj in found:
        if obj is not None:
            obj.ref_count_down()
