"""`seconds_left`: how long the operation under way may still take. For connectors that wait between requests."""

from __future__ import annotations

import asyncio
import math
from contextvars import ContextVar
from typing import Final, Protocol

import anyio


class Deadlined(Protocol):
    """An operation under way. `deadline`: when it has to end, by its loop's clock."""

    deadline: float


operation_under_way: Final[ContextVar[Deadlined | None]] = ContextVar("operation_under_way", default=None)
"""The operation that runs in this context. The manager sets it."""


def seconds_left() -> float:
    """Returns how many seconds the operation under way has until its deadline. Infinity: it has none.

    Called on the event loop. The cancel scopes of a caller count as well.
    """
    now = asyncio.get_running_loop().time()
    running = operation_under_way.get()
    deadline = running.deadline if running is not None else math.inf
    return min(deadline, anyio.current_effective_deadline()) - now
