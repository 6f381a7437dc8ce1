"""`Row`: bytes that lie in several buffers, one after the other."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

MAX_BUFFERS: Final = 512
"""Buffers of one system call, at most. Linux takes 1,024; some more hold what goes before or comes behind."""


class Row:
    """Buffers in a row, and how many of their bytes were gone through.

    Attributes:
        left: the bytes that were not.
    """

    __slots__ = ("_ends", "_position", "_views", "left")

    def __init__(self, views: Sequence[memoryview]) -> None:
        self._views = views
        self._ends = [*accumulate(map(len, views))]  # there may be many buffers: nothing goes through them one by one
        self._position = 0
        self.left = self._ends[-1] if self._ends else 0

    def peek(self, limit: int) -> list[memoryview]:
        """Returns the next bytes, `limit` at most, in `MAX_BUFFERS` pieces at most. The first piece is not empty."""
        if not self.left or limit <= 0:
            return []
        views, ends, position = self._views, self._ends, self._position
        start = bisect_right(ends, position)
        stop = min(bisect_left(ends, position + limit, start), len(ends) - 1, start + MAX_BUFFERS - 1)
        pieces = [*views[start : stop + 1]]
        if (excess := ends[stop] - position - limit) > 0:
            pieces[-1] = pieces[-1][:-excess]
        if passed := position - (ends[start] - len(views[start])):
            pieces[0] = pieces[0][passed:]
        return pieces

    def skip(self, nbytes: int) -> None:
        """Goes through `nbytes` bytes."""
        self._position += nbytes
        self.left -= nbytes

    def copy_rest(self) -> None:
        """Copies the bytes that are left, and lets go of the buffers: the row goes on with the copy."""
        start = bisect_right(self._ends, self._position)
        passed = self._position - (self._ends[start - 1] if start else 0)
        self._views = (memoryview(b"".join(self._views[start:])[passed:]),)
        self._ends = [self.left]
        self._position = 0

    def release(self) -> None:
        """Lets go of the buffers."""
        self._views = ()
