"""`Bandwidth`: a limit of bytes per second that all transfers share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Bandwidth:
    """Lets `rate` bytes per second pass. Transfers follow each other in the order in which they began to wait."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._transferring = asyncio.Lock()

    @asynccontextmanager
    async def transfer(self, nbytes: int) -> AsyncIterator[None]:
        """Lets the block run alone, and ends when `nbytes` would have passed. A cancelled transfer ends at once."""
        async with self._transferring:
            started = time.monotonic()
            yield
            left = started + nbytes / self._rate - time.monotonic()
            if left > 0:
                await asyncio.sleep(left)
