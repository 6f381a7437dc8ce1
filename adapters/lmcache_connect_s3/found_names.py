"""`FoundNames`: the objects that were found lately, so that a look-up need not ask again."""

from __future__ import annotations

import time
from typing import Final

_MAX_NAMES: Final = 65_536


class FoundNames:
    """Remembers names for some seconds. Names that were not found are not remembered. Lives on one event loop."""

    def __init__(self, seconds: float) -> None:
        """`seconds` 0: nothing is remembered."""
        self._seconds: Final = seconds
        self._until: dict[str, float] = {}

    def __contains__(self, name: str) -> bool:
        return bool(self._until) and self._until.get(name, 0.0) > time.monotonic()

    def add(self, name: str) -> None:
        """The object was found, or stored."""
        if self._seconds:
            if len(self._until) >= _MAX_NAMES:
                self._until.clear()
            self._until[name] = time.monotonic() + self._seconds

    def discard(self, name: str) -> None:
        """The object is being removed."""
        self._until.pop(name, None)
