"""`Row`: bytes that lie in several buffers, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

MAX_BUFFERS: Final = 512
"""Buffers of one system call, at most. Linux takes 1,024; some more hold what goes before or comes behind."""


class Row:
    """Buffers in a row, and how many of their bytes were gone through.

    Attributes:
        left: the bytes that were not.
    """

    __slots__ = ("_at", "_offset", "_views", "left")

    def __init__(self, views: Sequence[memoryview]) -> None:
        self._views = views
        self._at = 0
        """The first buffer that is not behind us, of which `_offset` bytes are."""
        self._offset = 0
        self.left = len(views[0]) if len(views) == 1 else sum(map(len, views))

    def peek(self, limit: int) -> list[memoryview]:
        """Returns the next bytes, `limit` at most, in `MAX_BUFFERS` pieces at most, of which none is empty."""
        pieces: list[memoryview] = []
        views, at, offset = self._views, self._at, self._offset
        while limit > 0 and at < len(views) and len(pieces) < MAX_BUFFERS:
            view = views[at]
            if offset or len(view) > limit:
                view = view[offset : offset + limit]
            if view:
                pieces.append(view)
                limit -= len(view)
            at += 1
            offset = 0
        return pieces

    def skip(self, nbytes: int) -> None:
        """Goes through `nbytes` bytes."""
        self.left -= nbytes
        views, at, offset = self._views, self._at, self._offset + nbytes
        while at < len(views) and offset >= len(views[at]):
            offset -= len(views[at])
            at += 1
        self._at, self._offset = at, offset

    def copy_rest(self) -> None:
        """Copies the bytes that are left, and lets go of the buffers: the row goes on with the copy."""
        rest = b"".join(self._views[self._at :])[self._offset :]
        self._views, self._at, self._offset = (memoryview(rest),), 0, 0

    def release(self) -> None:
        """Lets go of the buffers."""
        self._views = ()
