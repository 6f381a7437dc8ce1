"""`History`: what faults may have done to the chunks of a store, so that it is not taken for a wrong answer."""

from __future__ import annotations

import math


class History:
    """When the store last lost chunks, and when it last went back to older ones. Times are monotonic.

    Args:
        keeps: whether a chunk that is put must be found until a fault has lost it. False for a store that others use or
            that may evict.
        reverts: whether the store may go back at any time, without a fault of ours: one with replicas.
    """

    def __init__(self, *, keeps: bool, reverts: bool) -> None:
        self._keeps = keeps
        self._lost = -math.inf
        self._reverts = reverts
        self._reverted = -math.inf

    def loses(self) -> None:
        """From now on chunks may be lost."""
        self._lost = math.inf

    def goes_back(self) -> None:
        """From now on older values may come back, and others be lost."""
        self._lost = self._reverted = math.inf

    def is_well(self, now: float) -> None:
        """No more chunks are lost from `now` on, nor do older ones come back."""
        if self._lost == math.inf:
            self._lost = now
        if self._reverted == math.inf:
            self._reverted = now

    def may_be_gone(self, since: float) -> bool:
        """Whether a chunk whose put began at `since` may be missing."""
        return not self._keeps or self._lost >= since

    def may_be_older(self, since: float) -> bool:
        """Whether an older value may stand where one was put at `since`."""
        return self._reverts or self._reverted >= since
