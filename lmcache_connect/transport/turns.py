"""How the transfers of one event loop share its turns."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    pass


LOOP_TURN_BYTES: Final = 1 << 20
"""What all streams of one event loop together move, about, before the loop's other work gets its turn. The loop calls
every stream that is ready in each of its turns, so that more of them have to make do with less each."""


MIN_TURN_BYTES: Final = 64 << 10
"""What one stream may move in a turn at least, however many there are: less would cost more in calls than in bytes."""


class Turns:
    """The transfers under way on one event loop, which share its turns."""

    __slots__ = ("__weakref__", "transfers")

    def __init__(self) -> None:
        self.transfers = 0

    def bytes_each(self) -> int:
        """What each of them may move in one turn."""
        return max(LOOP_TURN_BYTES // max(self.transfers, 1), MIN_TURN_BYTES)


turns_of: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Turns]] = WeakKeyDictionary()
