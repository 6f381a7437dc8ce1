"""`StoreWait`: waits for a store that fails for a moment, such as during a failover, and gives up after a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from ...errors import (
    ArenaExhaustedError,
    LMCacheConnectError,
    OperationTimeoutError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)

T = TypeVar("T")

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0


class StoreWait:
    """Makes calls to stores, again where a moment may help, for so many seconds in all since the last success."""

    def __init__(self, seconds: float, stop: asyncio.Event) -> None:
        """`stop`: nobody waits for a store any more when it is set."""
        self._seconds = seconds
        self._stop = stop

    async def call(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Returns what `ask()` returns.

        Raises:
            LMCacheConnectError: what it raises, where that will not change, or has not changed for the whole time.
        """
        give_up_at: float | None = None
        pause = _FIRST_PAUSE
        while True:
            try:
                return await ask()
            except LMCacheConnectError as error:
                if not is_passing(error) or self._stop.is_set():
                    raise
                now = time.monotonic()
                give_up_at = now + self._seconds if give_up_at is None else give_up_at
                if now + pause > give_up_at:
                    raise
            await self._wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _wait(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            pass


def is_passing(error: LMCacheConnectError) -> bool:
    """Whether the same call may succeed a moment later."""
    if isinstance(error, ArenaExhaustedError):
        return error.requested <= error.capacity
    if not isinstance(error, StoreError) or error.permanent or isinstance(error, StoreFullError):
        return False
    return error.retryable or isinstance(error, StoreUnavailableError | OperationTimeoutError)


def concerns_all(error: LMCacheConnectError) -> bool:
    """Whether a failure is the store's, and would be that of the next key as well."""
    if isinstance(error, StoreError):
        return error.permanent or isinstance(error, StoreFullError) or is_passing(error)
    return is_passing(error)
