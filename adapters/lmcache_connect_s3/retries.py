"""`Retries`: which failure of a request is tried again, when, and as long as how many are."""

from __future__ import annotations

import random
from typing import Final

from lmcache_connect import StoreError

from .failures import ThrottledError

_CAPACITY: Final = 60.0
_COST: Final = 1.0
_REFUND: Final = 0.05
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 5.0


class Retries:
    """Exponential pauses with full jitter, out of one budget for all requests of a connector.

    Each further attempt costs one token of sixty, and every twenty requests that succeed give one back: against a store
    that fails all of them, a connector adds no more than a twentieth to its load, whatever its callers do.
    """

    def __init__(self, attempts: int) -> None:
        self._attempts = attempts
        self._tokens = _CAPACITY

    @property
    def tokens(self) -> float:
        """What is left of the budget."""
        return self._tokens

    def succeeded(self) -> None:
        """A request was answered."""
        self._tokens = min(_CAPACITY, self._tokens + _REFUND)

    def pause(self, attempts: int, error: StoreError) -> float | None:
        """Seconds until a request that was made `attempts` times is made again; None where it is not."""
        if not error.retryable or attempts >= self._attempts or self._tokens < _COST:
            return None
        self._tokens -= _COST
        longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (attempts - 1))
        pause = random.uniform(longest / 10, longest)
        if isinstance(error, ThrottledError) and error.retry_after is not None:
            pause = max(pause, error.retry_after)
        return pause
