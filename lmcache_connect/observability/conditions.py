"""`Conditions`: what fails again and again on one store, told at a bounded rate, and judged."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from .events import event

INTERVAL: Final = 30.0
"""Seconds between two lines of the log about one condition. In such a time what is recent loses half of its weight."""

QUIET: Final = 10.0
"""Seconds without a failure after which calls that succeed end a condition."""

JUDGED: Final = 60.0
"""Seconds after its last failure in which a condition is serious although nobody has tried again."""

FORGOTTEN: Final = 300.0
"""Seconds without a failure after which a condition ends although nobody has tried again."""

SERIOUS_SHARE: Final = 0.1
"""The share of recent calls that have to fail for a condition to be serious while others succeed."""

SERIOUS_FAILURES: Final = 3
"""The failures that a condition has to have for that."""


@dataclass(frozen=True)
class Condition:
    """One kind of operation that fails with one class of error. `failures` of its `calls` since then have failed."""

    operation: str
    error: str
    """The error's class."""
    detail: str
    """The message of the last failure."""
    since: float
    """When it began, in seconds since 1970."""
    seconds: float
    """From its beginning to its last failure."""
    failures: int
    calls: int


class Conditions:
    """The conditions of one store, by operation and class of error.

    The first failure is told when it comes. Then a count is told every `INTERVAL` seconds while the failures go on, and
    once when they have ended, with how long it took and how many failed. One that begins again sooner than `INTERVAL`
    after its last line is counted, and told when that time is over.

    Belongs to one event loop.
    """

    def __init__(
        self,
        store: str,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`store` is the store's address, for the log. `clock` returns monotonic seconds."""
        self._store = store
        self._clock = clock
        self._wall_clock = wall_clock
        self._live: dict[tuple[str, str], _Live] = {}
        self._told: dict[tuple[str, str], float] = {}

    @property
    def is_clear(self) -> bool:
        """Whether there is no condition, so that a success need not be noted."""
        return not self._live

    def failed(self, operation: str, error: str, detail: str) -> None:
        """Notes a call that failed. `error` is the class of the error, `detail` its message."""
        now = self._clock()
        key = (operation, error)
        for other, each in self._live.items():
            if other[0] == operation and other != key:
                each.count(now)
        self._end_old(now)
        live = self._live.get(key)
        is_new = live is None
        if live is None:
            live = self._live[key] = _Live(now, self._wall_clock())
        live.count(now).fail(now)
        live.detail = detail
        if now - self._told.get(key, -INTERVAL) < INTERVAL:
            return
        self._told[key] = now
        live.is_told = True
        if is_new:
            event(logging.WARNING, "operation_failed", store=self._store, operation=operation, error=detail)
            return
        event(
            logging.WARNING,
            "operation_keeps_failing",
            store=self._store,
            operation=operation,
            failures=live.failures,
            calls=live.calls,
            seconds=round(now - live.began, 1),
            error=detail,
        )

    def refused(self, operation: str) -> None:
        """Notes a call that was not made, since earlier ones have failed."""
        now = self._clock()
        for (kind, _), live in self._live.items():
            if kind == operation:
                live.count(now).fail(now)

    def succeeded(self, operation: str) -> None:
        """Notes a call that succeeded. Need not be called while `is_clear`."""
        now = self._clock()
        for (kind, _), live in self._live.items():
            if kind == operation:
                live.count(now).has_succeeded = True
        self._end_old(now)

    def serious(self) -> tuple[Condition, ...]:
        """The conditions that make the store's service a bad one now.

        Those are the ones without a success since their last failure, for `JUDGED` seconds; and those that a tenth of
        the recent calls belong to, until `QUIET` seconds after their last failure.
        """
        now = self._clock()
        self._end_old(now)
        return tuple(
            Condition(operation, error, live.detail, live.since, live.last - live.began, live.failures, live.calls)
            for (operation, error), live in self._live.items()
            if live.is_serious(now)
        )

    def end(self) -> None:
        """Ends all conditions: the connector is closed, or another one takes its place."""
        for key in list(self._live):
            self._end(key, "is closed")

    def _end_old(self, now: float) -> None:
        for key, live in list(self._live.items()):
            if live.has_succeeded and now - live.last >= QUIET:
                self._end(key, "succeeds")
            elif now - live.last >= FORGOTTEN:
                self._end(key, "is not called")

    def _end(self, key: tuple[str, str], outcome: str) -> None:
        live = self._live.pop(key)
        if not live.is_told:
            return
        operation, error = key
        event(
            logging.WARNING,
            "operation_failures_ended",
            store=self._store,
            operation=operation,
            error=error,
            failures=live.failures,
            calls=live.calls,
            seconds=round(live.last - live.began, 1),
            now=outcome,
        )


class _Live:
    """What is counted of one condition."""

    __slots__ = (
        "began",
        "calls",
        "detail",
        "failures",
        "has_succeeded",
        "is_told",
        "last",
        "recent_calls",
        "recent_failures",
        "since",
        "weighed",
    )

    def __init__(self, now: float, since: float) -> None:
        self.began = self.last = self.weighed = now
        self.since = since
        self.detail = ""
        self.calls = self.failures = 0
        self.recent_calls = self.recent_failures = 0.0
        self.has_succeeded = False  # since the last failure
        self.is_told = False

    def count(self, now: float) -> _Live:
        if now - self.weighed >= INTERVAL:
            self.weighed = now
            self.recent_calls /= 2
            self.recent_failures /= 2
        self.calls += 1
        self.recent_calls += 1
        return self

    def fail(self, now: float) -> None:
        self.failures += 1
        self.recent_failures += 1
        self.last = now
        self.has_succeeded = False

    def is_serious(self, now: float) -> bool:
        if not self.has_succeeded:
            return now - self.last < JUDGED
        if now - self.last >= QUIET or self.failures < SERIOUS_FAILURES:
            return False
        return self.recent_failures >= SERIOUS_SHARE * self.recent_calls
