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

    def give_back(self) -> None:
        """Gives the operation's share of the byte budget back, because it moves no bytes while it waits."""


operation_under_way: Final[ContextVar[Deadlined | None]] = ContextVar("operation_under_way", default=None)
"""The operation that runs in this context. The manager sets it."""


def give_back_budget() -> None:
    """Gives back the share of the byte budget that the operation under way has: it waits for room, and moves no bytes.

    Otherwise operations that would release room could wait for the share. On the event loop.
    """
    if (running := operation_under_way.get()) is not None:
        running.give_back()


def seconds_left() -> float:
    """Returns how many seconds the operation under way has until its deadline. Infinity: it has none.

    Called on the event loop. The cancel scopes of a caller count as well.
    """
    now = asyncio.get_running_loop().time()
    running = operation_under_way.get()
    deadline = running.deadline if running is not None else math.inf
    return min(deadline, anyio.current_effective_deadline()) - now
