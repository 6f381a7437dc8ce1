"""`BatchSlots`: the slots of one batched get, and how far there is room for its chunks."""

from __future__ import annotations

import threading
from typing import Final, NoReturn

from ..errors import ArenaExhaustedError, CorruptRecordError
from ..memory import MemoryObj, release_all
from .time_left import note_missed

_NO_ROOM: Final = "no_room"
"""The reason by which keys are counted that a batch had no room for."""


_ENDING: Final = threading.Lock()
"""Held while the end of a batch moves, which is rare, and which members in threads may do at the same time."""


class BatchSlots:
    """One slot per key of a get. A batch that there is no room for brings the prefix that fits.

    Engines use the chunks up to the first hole. So a chunk behind one that found no room is worth nothing, and its room
    is better used for an earlier one. A chunk that is larger than all memory is a hole of its own, and ends nothing:
    no smaller batch would bring it.

    Attributes:
        found: for each key its chunk. None until it has arrived and verified.
        corrupt: the errors of the slots whose record did not verify.
        too_large: the errors of the slots whose chunk is larger than the memory.
        wanted: how many slots are wanted. Those from here on are not.
        shortage: why not all are.
        dropped: how many chunks have come and were not wanted.
    """

    __slots__ = ("_corrupt", "_too_large", "dropped", "found", "shortage", "wanted")

    def __init__(self, keys: int) -> None:
        self.found: list[MemoryObj | None] = [None] * keys
        self._corrupt: dict[int, CorruptRecordError] | None = None  # made when needed: each object costs a small get
        self._too_large: dict[int, ArenaExhaustedError] | None = None
        self.wanted = keys
        self.shortage: ArenaExhaustedError | None = None
        self.dropped = 0

    @property
    def corrupt(self) -> dict[int, CorruptRecordError]:
        if self._corrupt is None:
            self._corrupt = {}
        return self._corrupt

    @property
    def too_large(self) -> dict[int, ArenaExhaustedError]:
        if self._too_large is None:
            self._too_large = {}
        return self._too_large

    @property
    def is_plain(self) -> bool:
        """Whether each slot has its chunk, or is one that the store does not hold."""
        return self.shortage is None and not self._corrupt and not self._too_large

    def no_room(self, slot: int, error: ArenaExhaustedError) -> bool:
        """Told that there is no room for the chunk of a slot. Returns whether its batch ends there. Thread-safe."""
        error = error.with_traceback(None)  # whose frames hold memory
        if error.requested > error.capacity:
            self.too_large[slot] = error
            return False
        with _ENDING:
            if slot < self.wanted:
                self.wanted, self.shortage = slot, error
        return True

    def drop_unwanted(self) -> None:
        """Releases the chunks that have come and are not wanted."""
        if self.wanted == len(self.found):
            return
        unwanted = [obj for obj in self.found[self.wanted :] if obj is not None]
        for slot in range(self.wanted, len(self.found)):
            self.found[slot] = None
            self.corrupt.pop(slot, None)
            self.too_large.pop(slot, None)
        self.dropped += len(unwanted)
        release_all(list[MemoryObj | None](unwanted))

    def reopened(self) -> range:
        """Wants as many further slots as chunks were dropped, since there is room for those. Returns which.

        They found no room because later ones had it. In their order, they find it now.
        """
        more = range(self.wanted, min(self.wanted + self.dropped, len(self.found)))
        self.wanted = more.stop
        if self.wanted == len(self.found):
            self.shortage = None
        return more

    def add(self, rest: BatchSlots, start: int) -> None:
        """Takes over the slots of `rest`, of which the first is `start` here. It owns their chunks from now on."""
        for slot, obj in enumerate(rest.found, start):
            self.found[slot] = obj
        self.corrupt.update({start + slot: error for slot, error in rest.corrupt.items()})
        self.too_large.update({start + slot: error for slot, error in rest.too_large.items()})
        if rest.shortage is not None:
            self.no_room(start + rest.wanted, rest.shortage)

    def count_unwanted(self) -> None:
        """Counts the slots that are not wanted as misses for want of room, when the get has ended.

        Raises:
            ArenaExhaustedError: there was no room, and no chunk has come.
        """
        if self.shortage is None:
            return
        if not any(self.found):
            self.raise_shortage()
        note_missed(_NO_ROOM, len(self.found) - self.wanted)

    def raise_shortage(self) -> NoReturn:
        """Raises why there was no room, and forgets it: an error must not be held by a frame in its traceback."""
        error, self.shortage = self.shortage, None
        assert error is not None  # noqa: S101  # as the caller has seen
        try:
            raise error
        finally:
            del error
