"""`RemovalPolicy`: decides whether a damaged record is removed from its store, for every connector.

Removing is final, and a get that does not verify is one observation. A connection that is out of step, a proxy's page
or a fault of ours looks like a damaged record, and another writer may replace the record in the next moment. Therefore:

1. Only a record that is recognisably this toolkit's is removed: `CorruptRecordError.removable`.
2. Only a store that can look again, over another connection, and remove in one step with that look what it saw:
   a connector that overrides `remove_damaged`.
3. Not in a burst: after `MOST_ATTEMPTS` in `WINDOW` seconds, nothing is removed for `PAUSE` seconds. So many damaged
   records are more likely a fault here or on the way than in the store.

A record that stays is a miss until it is overwritten or expires. The reasons are in `docs/design.md`.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Final

import anyio

from ..errors import CorruptRecordError, UnsupportedOperationError
from ..observability import RepeatedEvent, event

MOST_ATTEMPTS: Final = 10
"""Removals that may be attempted in `WINDOW`."""

WINDOW: Final = 60.0
"""Seconds in which attempts are counted."""

PAUSE: Final = 60.0
"""Seconds without removals after a burst."""

REMOVAL_TIMEOUT: Final = 1.0
"""Seconds that a get waits for a removal. Its result is known by then, and must not be lost with the store's answer."""


class RemovalOutcome(StrEnum):
    """What became of a damaged record. The values are labels of the metric."""

    REMOVED = "removed"
    NOT_OURS = "not_ours"
    """It stays: it is not recognisably this toolkit's, or it is of another release."""
    CHANGED = "changed"
    """It stays: the second look did not find the same damaged record."""
    SUSPENDED = "suspended"
    """It stays: too many records were damaged in a short time."""
    UNSUPPORTED = "unsupported"
    """It stays: the connector or its store cannot remove only what it saw."""
    OFF = "off"
    """It stays: the setting `remove_damaged` is off."""
    FAILED = "failed"
    """It stays, as far as is known: the store refused, or did not answer in time."""


class RemovalPolicy:
    """The rules for one store. Lives on one event loop; `counts` may be read from any thread."""

    def __init__(
        self,
        store: str,
        counts: Counter[tuple[str, str]] | None = None,
        *,
        timeout: float = REMOVAL_TIMEOUT,
        is_on: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`store` is the store's address, for the log. `counts` counts by the error's reason and the outcome.

        `is_on`: the setting `remove_damaged`.
        """
        self._store = store
        self.counts: Final[Counter[tuple[str, str]]] = Counter() if counts is None else counts
        """The number of damaged records by reason and `RemovalOutcome`."""
        self._timeout = timeout
        self._is_on = is_on
        self._clock = clock
        self._attempts = _Rate(MOST_ATTEMPTS)
        self._damaged = RepeatedEvent("corrupt_record", clock)
        self._suspended_until: float | None = None

    @property
    def is_suspended(self) -> bool:
        """Whether a burst has suspended removals."""
        return self._suspended_until is not None and self._clock() < self._suspended_until

    async def decide(
        self, key: str, error: CorruptRecordError, remove: Callable[[], Awaitable[bool]] | None
    ) -> RemovalOutcome:
        """Removes the record under `key`, of which a get has raised `error`, if the rules allow it. Counts and logs.

        `remove` looks a second time and removes; it is None for a connector that cannot. Nothing that `remove` raises
        is raised here, except for the caller's cancellation. Returns within `REMOVAL_TIMEOUT` seconds.
        """
        outcome = RemovalOutcome.FAILED
        detail = ""
        try:
            outcome = self._forbidden(error, remove is not None) or outcome
            if outcome is RemovalOutcome.FAILED and remove is not None:
                with anyio.move_on_after(self._timeout) as waiting:
                    outcome = RemovalOutcome.REMOVED if await remove() else RemovalOutcome.CHANGED
                if waiting.cancelled_caught:
                    detail = f"no answer within {self._timeout} s"
        except UnsupportedOperationError:
            outcome = RemovalOutcome.UNSUPPORTED
        except Exception as failure:  # whatever it is, the get has its answer: a miss
            detail = f"{type(failure).__name__}: {failure}"
        finally:
            self.counts[error.reason, outcome.value] += 1
            self._tell(key, error, outcome, detail)
        return outcome

    def _tell(self, key: str, error: CorruptRecordError, outcome: RemovalOutcome, detail: str) -> None:
        self._damaged.tell(
            logging.WARNING,
            store=self._store,
            key=key,
            error=str(error),
            outcome=outcome.value,
            **({"removal_error": detail} if detail else {}),
        )

    def _forbidden(self, error: CorruptRecordError, can_remove: bool) -> RemovalOutcome | None:
        """Why the record stays, without a further look. None: an attempt may be made, and is counted."""
        if not error.removable:
            return RemovalOutcome.NOT_OURS
        if not self._is_on:
            return RemovalOutcome.OFF
        if not can_remove:
            return RemovalOutcome.UNSUPPORTED
        now = self._clock()
        if self._suspended_until is not None:
            if now < self._suspended_until:
                return RemovalOutcome.SUSPENDED
            self._suspended_until = None
            self._attempts = _Rate(MOST_ATTEMPTS)
        if not self._attempts.admits(now):
            self._suspended_until = now + PAUSE
            event(
                logging.ERROR,
                "removals_suspended",
                store=self._store,
                attempts=MOST_ATTEMPTS,
                window_seconds=WINDOW,
                pause_seconds=PAUSE,
                advice="many records do not verify; look for a fault of the network, a proxy or a writer",
            )
            return RemovalOutcome.SUSPENDED
        return None


class _Rate:
    """Admits at most `most` in any `WINDOW` seconds."""

    def __init__(self, most: int) -> None:
        self._admitted: deque[float] = deque(maxlen=most)

    def admits(self, now: float) -> bool:
        if len(self._admitted) == self._admitted.maxlen and now - self._admitted[0] < WINDOW:
            return False
        self._admitted.append(now)
        return True
