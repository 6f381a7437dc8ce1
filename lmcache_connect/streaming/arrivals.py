"""`Arrivals`: the chunks of one get, as they arrive."""

from __future__ import annotations

from ..contract import Slots
from ..errors import ArenaExhaustedError, CorruptRecordError
from .room import Room


class Arrivals:
    """One slot per key of a get, and the room for its chunks.

    Attributes:
        room: makes memory for the chunks. It owns them until the get has succeeded.
        found: for each key its chunk. None until it has arrived and verified.
        corrupt: the errors of the slots whose record did not verify.
        too_large: the errors of the slots whose chunk is larger than the arena.
    """

    def __init__(self, keys: int, room: Room) -> None:
        self.room = room
        self.found: Slots = [None] * keys
        self.corrupt: dict[int, CorruptRecordError] = {}
        self.too_large: dict[int, ArenaExhaustedError] = {}

    def release(self) -> None:
        """Releases every chunk: the get has failed, and nothing is received any more."""
        self.room.release()
