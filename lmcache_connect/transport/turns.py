"""What a turn is, and how the transfers of one event loop share its time.

A turn is what one transfer may move, in bytes, in one iteration of the event loop. In each iteration the loop calls
every stream whose socket is ready, so the more transfers are under way, the smaller is the turn of each.
"""

from __future__ import annotations

import asyncio
from typing import Final
from weakref import WeakKeyDictionary

LOOP_TURN_BYTES: Final = 1 << 20
"""About how much all transfers of one event loop move together in one iteration, before its other work goes on."""

MIN_TURN_BYTES: Final = 64 << 10
"""The smallest turn, however many transfers there are: a smaller one would cost more in calls than in bytes."""


class Turns:
    """Counts the transfers under way on one event loop, and gives each of them its turn."""

    __slots__ = ("__weakref__", "transfers")

    def __init__(self) -> None:
        self.transfers = 0

    def turn_bytes(self) -> int:
        """Returns how many bytes a transfer may move in one iteration now."""
        return max(LOOP_TURN_BYTES // max(self.transfers, 1), MIN_TURN_BYTES)


_turns: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Turns]] = WeakKeyDictionary()


def turns_of(loop: asyncio.AbstractEventLoop) -> Turns:
    """Returns the loop's turns, which all of its streams share."""
    return _turns.setdefault(loop, Turns())
