"""`Deck`: items in random order, each as often as it was put in, before any comes again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Deck(Generic[T]):
    """Draws without replacement, and begins again when nothing is left.

    So the mix of the load is the same after every round. Independent draws would make the throughput of one second
    differ from that of the next one by chance.
    """

    def __init__(self, items: Sequence[T], rng: random.Random) -> None:
        self._items = tuple(items)
        self._rng = rng
        self._left: list[T] = []

    def draw(self) -> T:
        """The next item."""
        if not self._left:
            self._left = list(self._items)
            self._rng.shuffle(self._left)
        return self._left.pop()
