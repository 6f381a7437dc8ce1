"""`Accounts`: which objects a server has stored, and which it has locked."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final


class Accounts:
    """What one L2 adapter remembers of the keys that its server has stored or locked. Thread-safe.

    The store forgets on its own: by a TTL, by eviction, or by another server's removal. So a key that a look-up or a
    removal does not find leaves the account, too. Keys are objects of LMCache's, and are not looked into.
    """

    def __init__(self) -> None:
        self._lock: Final = threading.Lock()
        self._sizes: Final[dict[Any, int]] = {}
        self._locks: Final[Counter[Any]] = Counter()

    def enter(self, keys: Iterable[Any], sizes: Iterable[int]) -> list[int]:
        """The keys were stored. Returns by how many bytes each has added to the account: 0 where it was there."""
        with self._lock:
            added: list[int] = []
            for key, size in zip(keys, sizes, strict=True):
                added.append(0 if key in self._sizes else size)
                self._sizes.setdefault(key, size)
            return added

    def leave(self, keys: Sequence[Any]) -> tuple[list[Any], list[int]]:
        """The keys are not in the store. Returns those that were in the account, with their bytes."""
        with self._lock:
            known = [key for key in dict.fromkeys(keys) if key in self._sizes]
            return known, [self._sizes.pop(key) for key in known]

    def lock(self, keys: Iterable[Any]) -> None:
        """Each key is going to be loaded. A key may be locked several times."""
        with self._lock:
            self._locks.update(keys)

    def unlock(self, keys: Iterable[Any]) -> None:
        """Takes one lock from each key. Keys without one are left alone."""
        with self._lock:
            for key in keys:
                if self._locks.get(key, 0) > 1:
                    self._locks[key] -= 1
                else:
                    self._locks.pop(key, None)

    def unlocked(self, keys: Iterable[Any]) -> list[Any]:
        """Those of the keys that have no lock, each once, in order."""
        with self._lock:
            return [key for key in dict.fromkeys(keys) if key not in self._locks]

    @property
    def locked(self) -> int:
        """The number of keys with a lock."""
        return len(self._locks)

    def __len__(self) -> int:
        return len(self._sizes)

    def entries(self) -> list[tuple[Any, int]]:
        """The keys in the account with their bytes."""
        with self._lock:
            return list(self._sizes.items())
