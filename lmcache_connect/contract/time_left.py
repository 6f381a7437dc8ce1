"""The deadline of the operation under way, for its connector: `seconds_left` reads it, `note_progress` renews it."""

from __future__ import annotations

import asyncio
import math
from contextvars import ContextVar
from typing import Final, Protocol

import anyio


class Deadlined(Protocol):
    """An operation under way. `deadline`: when it has to end, by its loop's clock."""

    @property
    def deadline(self) -> float: ...

    def release_share(self) -> None:
        """Releases its share of the byte budget, because it moves no bytes while it waits."""

    def renew(self) -> None:
        """Lets the deadline begin again."""

    def note_missed(self, reason: str, keys: int) -> None:
        """Counts keys that the operation misses, by the reason, where that is not that the store lacks them."""


operation_under_way: Final[ContextVar[Deadlined | None]] = ContextVar("operation_under_way", default=None)
"""The operation that runs in this context. The manager sets it."""


def release_budget_share() -> None:
    """Releases the byte budget's share of the operation under way: it waits for room, and moves no bytes.

    Otherwise operations that would release room could wait for the share. On the event loop.
    """
    if (running := operation_under_way.get()) is not None:
        running.release_share()


def seconds_left() -> float:
    """Returns how many seconds the operation under way has until its deadline. Infinity: it has no deadline.

    Called on the event loop. The cancel scopes of a caller count as well.
    """
    now = asyncio.get_running_loop().time()
    running = operation_under_way.get()
    deadline = running.deadline if running is not None else math.inf
    return min(deadline, anyio.current_effective_deadline()) - now


def note_progress() -> None:
    """Lets the deadline of the operation under way begin again. Does nothing outside of one.

    A listing calls it for each page that has brought it on: nobody knows before how many there are. Nothing else does,
    since a call that is about a number of keys or bytes has a deadline that allows time for them.
    """
    if (running := operation_under_way.get()) is not None:
        running.renew()


def note_missed(reason: str, keys: int = 1) -> None:
    """Counts keys that the operation under way misses for another reason than that the store lacks them."""
    if keys and (running := operation_under_way.get()) is not None:
        running.note_missed(reason, keys)
