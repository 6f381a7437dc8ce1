"""`Tenure`: for how long the server that an address leads to counts as the right one."""

from __future__ import annotations

import time
from typing import Final

_SHORTEST_SECONDS: Final = 1.0
"""An address that leads to a replica for good must not cost every call its connection."""


class Tenure:
    """What the connections to one address share. It ends where the server turns out not to be the right one any more.

    After a failover the old primary answers READONLY, while connections to it live on. Once their tenure is over, none
    of them is used for another call. The next connection belongs to a new tenure: its address is resolved again.
    """

    __slots__ = ("_began", "is_over")

    def __init__(self, began: float | None = None) -> None:
        """`began` is a time of `time.monotonic`; None: now."""
        self._began = time.monotonic() if began is None else began
        self.is_over = False

    def end(self) -> None:
        """Ends it, from any thread. One that began less than a second ago goes on."""
        if time.monotonic() - self._began >= _SHORTEST_SECONDS:
            self.is_over = True
