"""`Arrivals`: the chunks of one get, as they arrive."""

from __future__ import annotations

from typing import Any

from ..contract import BatchSlots
from ..errors import ArenaExhaustedError
from .chunk_bytes import ChunkRoom


class Arrivals(BatchSlots):
    """One slot per key of a get, and the room for its chunks.

    A store's protocol fills `found` with what the room has made. It calls `no_room` where `ChunkRoom.make` has raised
    `ArenaExhaustedError`, and asks for no slots that are not wanted any more.

    Attributes:
        room: makes memory for the chunks. It owns them until the get has succeeded.
    """

    __slots__ = ("room",)

    found: list[Any]

    def __init__(self, keys: int, room: ChunkRoom) -> None:
        super().__init__(keys)
        self.room = room

    def no_room(self, slot: int, error: ArenaExhaustedError) -> bool:
        """Told that there is no room for the chunk of a slot. Returns whether its batch ends there. Thread-safe."""
        is_end = super().no_room(slot, error)
        if is_end:
            self.room.is_short = True
        return is_end

    def release(self) -> None:
        """Releases every chunk: the get has failed, and nothing is received any more."""
        self.room.release()
