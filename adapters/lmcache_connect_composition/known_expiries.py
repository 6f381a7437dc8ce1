"""`KnownExpiries`: when the store forgets the chunks that were put here."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

MOST_KEYS: Final = 65_536
"""Keys whose expiry is remembered: those that were put last."""


class KnownExpiries:
    """How long a chunk that was put here may still be in its store, for fetches after it has left the cache.

    Lives on one event loop. Where nothing is known of a key, a chunk is as young as it can be: `ttl` seconds are left.
    """

    def __init__(self, ttl: float | None, clock: Callable[[], float]) -> None:
        """`ttl` is the store's, in seconds; None: it forgets nothing, and nothing is remembered."""
        self.ttl: Final = ttl
        self._clock = clock
        self._expiries: OrderedDict[str, float] = OrderedDict()

    def now(self) -> float:
        """The moment that a put begins at, for `put`."""
        return self._clock()

    def put(self, name: str, began: float) -> None:
        """Remembers that a put which began at `began` has stored the key."""
        if self.ttl is None:
            return
        self._expiries[name] = began + self.ttl
        self._expiries.move_to_end(name)
        if len(self._expiries) > MOST_KEYS:
            self._expiries.popitem(last=False)

    def forget(self, name: str) -> None:
        """Forgets a key that is changed."""
        self._expiries.pop(name, None)

    def left(self, name: str) -> float | None:
        """Seconds that the store keeps the key for at most; None: no limit."""
        if self.ttl is None or (expiry := self._expiries.get(name)) is None:
            return self.ttl
        left = expiry - self._clock()
        if left > 0:
            return left
        del self._expiries[name]  # if the store has it all the same, another writer has put it since
        return self.ttl
