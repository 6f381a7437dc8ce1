"""`FirstAttempt`: an attempt at an operation that its caller's own thread has made, and that was not the last one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from ..contract import operation_under_way
from .in_flight import InFlight
from .running import ThreadRunning


class FirstAttempt:
    """What has become of it. The operation goes on by that on the event loop, which judges and counts it."""

    __slots__ = ("_failure", "_is_open", "_running", "began")

    def __init__(self, began: float, failure: Exception | None, running: ThreadRunning) -> None:
        """`began`: when the operation began, by `time.perf_counter`. `failure` None: nothing came of the attempt.

        `running`: the operation, as its thread ran it. The event loop takes over from it.
        """
        self.began: Final = began
        self._failure = failure
        self._running = running
        self._is_open = True

    def before(
        self, method: Callable[..., Awaitable[Any]], in_flight: InFlight, check: Callable[[], object]
    ) -> Callable[..., Awaitable[Any]]:
        """Returns a method whose first call does what this attempt did. Later ones call `method`.

        `check` raises where the connector was closed meanwhile.
        """

        async def attempt(*args: Any) -> Any:
            if not self._is_open:
                return await method(*args)
            self._is_open = False
            in_flight.end(self._running)  # who closes the connector has waited for it until now
            check()
            if self._running.is_cancelled:  # not again: what was sent may have come to the store
                loop = asyncio.get_running_loop()
                if not self._running.is_late:
                    loop.call_soon(_cancel, operation_under_way.get())
                await loop.create_future()  # that ends the operation, or its deadline does, which has passed
            failure, self._failure = self._failure, None
            if failure is None:
                return await method(*args)
            try:
                raise failure
            finally:
                del failure  # a failure that its own traceback holds is freed late, and what its frames hold with it

        return attempt


def _cancel(running: Any) -> None:
    if not running.is_cancelled:
        running.cancel()
