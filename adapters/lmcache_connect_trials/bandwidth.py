"""`Bandwidth`: how many bytes a second pass, whoever sends them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Bandwidth:
    """A line that carries `rate` bytes a second, one transfer after the other in the order in which they came."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._line = asyncio.Lock()

    @asynccontextmanager
    async def transfer(self, nbytes: int) -> AsyncIterator[None]:
        """Has the line for the block, and until `nbytes` would have passed. Whoever is cancelled leaves it at once."""
        async with self._line:
            started = time.monotonic()
            yield
            left = started + nbytes / self._rate - time.monotonic()
            if left > 0:
                await asyncio.sleep(left)
