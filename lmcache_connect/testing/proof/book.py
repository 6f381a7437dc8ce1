"""`Book`: what a key may hold, that only one actor writes."""

from __future__ import annotations

import time
from typing import Final, TypeAlias

Version: TypeAlias = int | None
"""A value's version. None: the key is not there."""


class Book:
    """Follows one key. After an acknowledged change there is one right answer, else there are several.

    A call that failed may have changed the key, and what it sent may arrive late, for `stray` seconds after its end.
    Where the way to the store `echoes`, this also goes for the first attempt of a call that succeeded in its second.
    """

    def __init__(self, stray: float, *, echoes: bool = False) -> None:
        self._stray: Final = stray
        self._echoes: Final = echoes
        self._certain: Version = None
        self._certain_since = time.monotonic()
        self._possible: dict[Version, float] = {}  # what else may be there, and when the call for it ended

    @property
    def certain(self) -> Version:
        """What the last acknowledged change has left."""
        return self._certain

    def acknowledged(self, version: Version) -> None:
        """The key was changed, and now holds `version`."""
        now = time.monotonic()
        if self._echoes:
            self._possible[self._certain] = now
        self._certain, self._certain_since = version, now

    def failed(self, version: Version) -> None:
        """A call that would have changed the key to `version` has failed, so nothing is known of its effect."""
        self._possible[version] = time.monotonic()

    def answers(self) -> set[Version]:
        """Everything that a look at the key may find, if it has just ended."""
        now = time.monotonic()
        for version, ended in tuple(self._possible.items()):
            if ended <= self._certain_since and ended + self._stray < now:
                del self._possible[version]
        return {self._certain, *self._possible}
