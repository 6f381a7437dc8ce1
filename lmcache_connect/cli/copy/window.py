"""`Item` and `Window`: keys of a copy that are dealt with together."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from ...contract import KeyFacts


class Job(Enum):
    """What is to be done with the keys of a window."""

    COPY = "copy"
    COMPARE = "compare"
    """Find out from the payloads whether both stores hold the same, and copy where they do not, if that is wanted."""
    VERIFY = "verify"
    """Read the destination's chunks, which are the same by their checksums."""


@dataclass(frozen=True, slots=True)
class Item:
    """A key to deal with, and what both stores say of it. `destination` is None where it does not hold the key."""

    key: str
    source: KeyFacts
    destination: KeyFacts | None = None
    seen_at: float = field(default_factory=time.monotonic)

    @property
    def size(self) -> int:
        """The bytes of its payload, as far as they are known; otherwise those that the source's store holds."""
        return self.source.nbytes or self.source.stored_bytes or 0

    @property
    def ttl_left(self) -> float | None:
        """The seconds until the source forgets it; None: it never does, or that is not known."""
        ttl = self.source.ttl
        return None if ttl is None or math.isinf(ttl) else ttl - (time.monotonic() - self.seen_at)


@dataclass(frozen=True, slots=True)
class Window:
    """Keys that one worker deals with at a time."""

    job: Job
    items: tuple[Item, ...]

    @property
    def size(self) -> int:
        """The bytes of their payloads."""
        return sum(item.size for item in self.items)


def windows_of(job: Job, items: Iterable[Item], most_bytes: int, most_items: int) -> Iterator[Window]:
    """Yields items in windows of at most so many bytes and items, in order. A larger item has one of its own."""
    window: list[Item] = []
    size = 0
    for item in items:
        if window and (size + item.size > most_bytes or len(window) == most_items):
            yield Window(job, tuple(window))
            window, size = [], 0
        window.append(item)
        size += item.size
    if window:
        yield Window(job, tuple(window))
