"""`Budget`: the most bytes that a run has in the store at a time."""

from __future__ import annotations

from typing import Final


class Budget:
    """What each key may hold at most. A put takes its share before it begins, because one that fails may be stored."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes: Final = nbytes
        """The most bytes of all keys together."""
        self._held: dict[str, int] = {}
        self._total = 0
        self.most = 0
        """The most bytes so far that all keys together may have held."""

    def fit(self, key: str, wanted: int, least: int) -> int:
        """How many bytes may be put under `key`: up to `wanted`, and at least `least`. They are taken at once."""
        others = self._total - self._held.get(key, 0)
        taken = max(least, min(wanted, self.nbytes - others))
        # What was there may stay if the put fails.
        held = max(taken, self._held.get(key, 0))
        self._total = others + held
        self._held[key] = held
        self.most = max(self.most, self._total)
        return taken

    def holds(self, key: str, nbytes: int) -> None:
        """The key holds so many bytes now, which an acknowledged call says."""
        self._total += nbytes - self._held.get(key, 0)
        self._held[key] = nbytes
