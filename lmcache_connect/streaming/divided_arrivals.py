"""`DividedArrivals`: the chunks of one get that come from several servers, side by side."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from ..errors import ArenaExhaustedError
from .arrivals import Arrivals


class DividedArrivals:
    """Gives each of several receivers a share of the slots of one get. All of them use the room of the whole get.

    Where one finds no room for a chunk, the get brings the prefix that fits: the slots behind that chunk are not wanted
    any more, of any receiver.
    """

    def __init__(self, whole: Arrivals) -> None:
        self._whole: Final = whole
        self._shares: list[ArrivalsShare] = []
        self._lock: Final = threading.Lock()  # receivers may be threads

    def share(self, slots: Sequence[int]) -> ArrivalsShare:
        """Returns arrivals for these slots of the whole, in ascending order. On the event loop."""
        share = ArrivalsShare(self, slots, self._whole)
        with self._lock:
            share.shorten(self._whole.wanted)
            self._shares.append(share)
        return share

    def no_room(self, slot: int, error: ArenaExhaustedError) -> bool:
        """See `Arrivals.no_room`, for a slot of the whole."""
        with self._lock:
            is_end = self._whole.no_room(slot, error)
            if is_end:
                for share in self._shares:
                    share.shorten(self._whole.wanted)
        return is_end

    def take(self, share: ArrivalsShare) -> list[int]:
        """Takes over what has come to a share, and releases the rest: nothing is received there any more.

        Returns the slots of the share of which nothing is known, and that are wanted.
        """
        whole = self._whole
        share.room.release_since(0, share.found)
        with self._lock:
            self._shares.remove(share)
        for at, slot in enumerate(share.slots):
            if share.found[at] is not None:
                whole.found[slot] = share.found[at]
        if not share.is_plain:
            whole.corrupt.update({share.slots[at]: error for at, error in share.corrupt.items()})
        return self.unknown(share.slots)

    def unknown(self, slots: Sequence[int]) -> list[int]:
        """Returns those of some slots of the whole that have no chunk, and are still to be asked for."""
        whole = self._whole
        return [
            slot
            for slot in slots
            if slot < whole.wanted
            and whole.found[slot] is None
            and (whole.is_plain or (slot not in whole.corrupt and slot not in whole.too_large))
        ]


class ArrivalsShare(Arrivals):
    """The arrivals of one receiver. Slot 0 is the first of `slots` in the whole."""

    __slots__ = ("_divided", "slots")

    def __init__(self, divided: DividedArrivals, slots: Sequence[int], whole: Arrivals) -> None:
        super().__init__(len(slots), whole.room.part(slots))
        self._divided = divided
        self.slots: Final = slots

    def no_room(self, slot: int, error: ArenaExhaustedError) -> bool:
        """See `Arrivals.no_room`."""
        return self._divided.no_room(self.slots[slot], error)

    def shorten(self, wanted: int) -> None:
        """Told that the slots of the whole from `wanted` on are not wanted any more."""
        self.wanted = min(self.wanted, bisect_left(self.slots, wanted))
