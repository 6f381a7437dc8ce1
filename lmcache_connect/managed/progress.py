"""`Progress`: how far a call over many keys has come."""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import NamedTuple, TypeAlias


class Progress(NamedTuple):
    """How far `iterate` or `put_all` has come. `done` counts keys, `nbytes` bytes of chunks."""

    done: int
    total: int | None
    """The keys in all; None where the caller passed an iterator, which does not tell."""
    found: int
    """Of those that are done, how many had a chunk: all, for puts."""
    nbytes: int


OnProgress: TypeAlias = Callable[[Progress], object]
"""What is told the progress. Called on the caller's own loop or thread, often, and must not wait."""


class Tally:
    """Counts what is done, and tells `on_progress`."""

    def __init__(self, items: object, on_progress: OnProgress | None) -> None:
        """`items` are the keys or the pairs, as the caller gave them."""
        self._total = len(items) if isinstance(items, Sized) else None
        self._on_progress = on_progress
        self._done = self._found = self._nbytes = 0

    def add(self, done: int, found: int, nbytes: int) -> None:
        """Counts `done` keys more, of which `found` had chunks of `nbytes` bytes in all."""
        self._done += done
        self._found += found
        self._nbytes += nbytes
        if self._on_progress is not None:
            self._on_progress(Progress(self._done, self._total, self._found, self._nbytes))

    @property
    def done(self) -> int:
        """Keys that are done."""
        return self._done
