"""`LeftOut`: names in a store that a listing leaves out, because they are not those of chunks that a call may name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class LeftOut:
    """How many names the listings that are read meanwhile have left out."""

    __slots__ = ("_outer", "count")

    def __init__(self, outer: LeftOut | None) -> None:
        self._outer = outer
        self.count = 0

    def add(self, count: int) -> None:
        """Counts names here, and in the counts around this one."""
        self.count += count
        if self._outer is not None:
            self._outer.add(count)


_counting: ContextVar[LeftOut | None] = ContextVar("left_out", default=None)


@contextmanager
def counting_left_out() -> Iterator[LeftOut]:
    """Counts what `list` and `scan` leave out while this context is entered. May be nested. Not for generators."""
    left_out = LeftOut(_counting.get())
    token = _counting.set(left_out)
    try:
        yield left_out
    finally:
        _counting.reset(token)


def leave_out(count: int = 1) -> None:
    """Called by a connector's `scan` or `list` for names under the prefix that it does not give its caller.

    Such are names that no key has, or that the connector cannot read. A caller that removes all that was listed
    must know that more is there.
    """
    if count and (left_out := _counting.get()) is not None:
        left_out.add(count)
