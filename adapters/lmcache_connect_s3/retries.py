"""`Retries`: whether a request that failed is made again, when, and with which credentials.

The one place that decides this, for look-ups (`bucket.py`) and for requests that move chunks (`request_call.py`). Each
of them waits in its own way: a look-up sleeps, a call goes on with other requests and keeps no connection meanwhile.
The manager repeats no operation on top of that (`RemoteConnector.repeats_itself`).
"""

from __future__ import annotations

import math
import random
import threading
from dataclasses import dataclass
from typing import Final

from lmcache_connect import StoreError
from lmcache_connect.errors import StoreStalledError

from .failures import ExpiredCredentialsError, ThrottledError

_CAPACITY: Final = 60.0
_COST: Final = 1.0
_REFUND: Final = 0.05
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 5.0

_MAX_STALE: Final = 3
"""How often a request is made again at once because a kept connection turned out to be closed."""


class Tries:
    """What has become of one request so far."""

    __slots__ = ("failed", "has_renewed", "stale")

    def __init__(self) -> None:
        self.failed = 0
        """Attempts that count: they failed, and not for a stale connection or expired credentials."""
        self.stale = 0
        self.has_renewed = False


@dataclass(frozen=True, slots=True)
class Retry:
    """How a request is made again: after `pause` seconds, and with other credentials where it `renews` them."""

    pause: float = 0.0
    renews: bool = False


class Retries:
    """Exponential pauses with full jitter, out of one budget for all requests of a connector.

    Each further attempt costs one token of sixty, and every twenty requests that succeed return one. So a connector
    adds no more than a twentieth to the load of a store that fails all its requests. Safe in any thread: the threads of
    a call count here as well.
    """

    def __init__(self, attempts: int) -> None:
        """`attempts`: how often one request is made, at most."""
        self._attempts = attempts
        self._tokens = _CAPACITY
        self._lock = threading.Lock()

    def succeeded(self) -> None:
        """A request was answered."""
        with self._lock:
            self._tokens = min(_CAPACITY, self._tokens + _REFUND)

    def again(
        self, tries: Tries, error: StoreError, *, is_stale: bool = False, seconds_left: float = math.inf
    ) -> Retry | None:
        """Counts a failed attempt. Returns how the request is made again; None where `error` is its outcome.

        `is_stale`: a connection was used that the server had closed before. The next attempt then costs nothing, and
        neither does the one after credentials expired. `seconds_left`: until the deadline. A pause that would be longer
        helps nobody: the caller learns at once what the server said.
        """
        if isinstance(error, StoreStalledError):
            return (
                None  # it would hold the call's share of the byte budget meanwhile: the operation is repeated instead
            )
        if is_stale and tries.stale < _MAX_STALE:
            tries.stale += 1
            return Retry()
        if isinstance(error, ExpiredCredentialsError) and not tries.has_renewed:
            tries.has_renewed = True
            return Retry(renews=True)
        tries.failed += 1
        if not error.retryable or tries.failed >= self._attempts:
            return None
        longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (tries.failed - 1))
        pause = random.uniform(longest / 10, longest)
        if isinstance(error, ThrottledError) and error.retry_after is not None:
            pause = max(pause, error.retry_after)
        return Retry(pause) if pause < seconds_left and self._take() else None

    def _take(self) -> bool:
        with self._lock:
            if self._tokens < _COST:
                return False
            self._tokens -= _COST
            return True
