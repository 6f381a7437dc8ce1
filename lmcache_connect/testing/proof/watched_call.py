"""`watch_call`: makes one call, ends it early perhaps, and tells when it ended and when it should have."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from ...config import ConnectorConfig
from ...managed import ManagedConnector
from .deadlines import seconds_allowed

_STUCK: Final = 30.0
"""Seconds after its deadline after which a call is given up as one that never ends."""


@dataclass(frozen=True, slots=True)
class WatchedCall:
    """How one call went. Times are monotonic.

    Attributes:
        operation: the name of the method.
        begun: when it was made.
        due: when it had to end: at its deadline or, where it was cancelled, at once.
        ended: when it ended, or was given up.
        lag: the seconds between `due` and `ended` by which the event loop and the machine were late.
        value: what it returned; None where it did not.
        error: what it raised.
        is_cancelled: whether it was ended early.
        has_ended: false for a call that was given up 30 seconds after it had to end.
    """

    operation: str
    begun: float
    due: float
    ended: float
    lag: float
    value: Any = None
    error: BaseException | None = None
    is_cancelled: bool = False
    has_ended: bool = True

    @property
    def ok(self) -> bool:
        """Whether it returned."""
        return self.has_ended and self.error is None

    @property
    def late(self) -> float:
        """By how many seconds it ended too late, without those by which the machine was late. 0 where it did not."""
        return max(0.0, self.ended - self.due - self.lag)


async def watch_call(
    connector: ManagedConnector,
    config: ConnectorConfig,
    lag: Callable[[float, float], float],
    operation: str,
    *args: Any,
    end_after: float | None = None,
) -> WatchedCall:
    """Awaits the connector's method `operation` with `args`. Raises nothing that the call raises.

    Args:
        connector: the connector.
        config: the settings of its manager, which tell the deadline.
        lag: how late the machine was between two times, such as `LagWatch.between`.
        operation: the name of the method, such as `"batched_get"`.
        args: its positional arguments.
        end_after: seconds after which the call is cancelled; None: it is not.
    """
    seconds = seconds_allowed(config, operation, *args)
    begun = time.monotonic()
    task = asyncio.ensure_future(getattr(connector, operation)(*args))
    due = begun + seconds
    cancelled = False
    try:
        await asyncio.wait((task,), timeout=seconds + _STUCK if end_after is None else end_after)
        if not task.done() and end_after is not None:
            due, cancelled = time.monotonic(), True
            task.cancel()
            await asyncio.wait((task,), timeout=_STUCK)
    finally:
        task.cancel()  # the caller was cancelled, or the call never ends
    ended = time.monotonic()
    if ended > due:
        await asyncio.sleep(0.03)  # so that the loop's own lag is known, if it was that
    behind = lag(due, ended) if ended > due else 0.0
    if not task.done():
        return WatchedCall(operation, begun, due, ended, behind, is_cancelled=cancelled, has_ended=False)
    if task.cancelled():
        gone = asyncio.CancelledError()
        return WatchedCall(operation, begun, due, ended, behind, error=gone, is_cancelled=True)
    if (error := task.exception()) is not None:
        return WatchedCall(operation, begun, due, ended, behind, error=error, is_cancelled=cancelled)
    return WatchedCall(operation, begun, due, ended, behind, task.result(), is_cancelled=cancelled)
