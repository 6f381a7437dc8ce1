"""What keeps a copy within bounds: its rate, and the memory that its chunks take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class RateLimit:
    """Lets bytes pass at a rate, on average. None: at any. Lives on one event loop."""

    def __init__(self, bytes_per_second: int | None) -> None:
        self._rate = bytes_per_second
        self._free_at = 0.0

    async def pass_bytes(self, nbytes: int) -> None:
        """Waits until so many more bytes may be moved."""
        if self._rate is None:
            return
        now = time.monotonic()
        begin = max(now, self._free_at)
        self._free_at = begin + nbytes / self._rate
        if begin > now:
            await asyncio.sleep(begin - now)


class MemoryGate:
    """Lets so many bytes of chunks be held at a time. What is larger than the limit passes alone."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._waiting: list[asyncio.Future[None]] = []

    @asynccontextmanager
    async def holding(self, nbytes: int) -> AsyncIterator[None]:
        """Waits until there is room for so many bytes, which are held in the block."""
        while self._held and self._held + nbytes > self._limit:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn
        self._held += nbytes
        try:
            yield
        finally:
            self._held -= nbytes
            waiting, self._waiting = self._waiting, []
            for turn in waiting:
                if not turn.done():
                    turn.set_result(None)
