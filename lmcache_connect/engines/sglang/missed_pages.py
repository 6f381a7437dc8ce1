"""`MissedPages`: the pages that could not be loaded lately, although the store had something under their names."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final

MOST: Final = 8192
"""The most names that are kept. The oldest ones are forgotten first."""


class MissedPages:
    """Names of pages that a load has missed, and that no store has replaced since. Thread-safe.

    A store that cannot remove a damaged record keeps it, and answers that it has the page. Only the bytes of a new
    store replace it.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most: Final = most
        self._lock = threading.Lock()
        self._names: dict[str, None] = {}

    def add(self, names: Iterable[str]) -> None:
        """A load has missed these pages."""
        with self._lock:
            self._names.update(dict.fromkeys(names))
            while len(self._names) > self._most:
                del self._names[next(iter(self._names))]

    def remove(self, names: Iterable[str]) -> None:
        """These pages were stored, or were loaded whole."""
        if self._names:
            with self._lock:
                for name in names:
                    self._names.pop(name, None)

    def __contains__(self, name: str) -> bool:
        return name in self._names
