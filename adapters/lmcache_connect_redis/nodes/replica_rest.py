"""`ReplicaRest`: for how long a replica that has failed is not asked."""

from __future__ import annotations

import math
import time
from typing import Final

_FIRST: Final = 1.0
_LONGEST: Final = 30.0


class ReplicaRest:
    """Begins when a replica fails: 1 second, and twice as long each time, up to 30. Then one call finds out how it is.

    Nobody needs a replica. So no call waits for one that has failed before, but that one.
    """

    __slots__ = ("_is_on_trial", "_seconds", "_until")

    def __init__(self) -> None:
        self._seconds = _FIRST
        self._until = -math.inf
        self._is_on_trial = True

    @property
    def is_over(self) -> bool:
        """Whether the replica may be asked."""
        return time.monotonic() >= self._until

    def asked(self) -> None:
        """Told that a call asks the replica. Where it failed before, no other does until this one is answered."""
        if self._until > -math.inf and self.is_over:
            self._until = time.monotonic() + self._seconds
            self._is_on_trial = True

    def failed(self) -> bool:
        """Begins it. Returns False where another call has done so: those that were under way count once."""
        if not self._is_on_trial:
            return False
        self._is_on_trial = False
        self._until = time.monotonic() + self._seconds
        self._seconds = min(2 * self._seconds, _LONGEST)
        return True

    def answered(self) -> None:
        """Told that the replica has answered."""
        self._seconds = _FIRST
        self._until = -math.inf
        self._is_on_trial = True
