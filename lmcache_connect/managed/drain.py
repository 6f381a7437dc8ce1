"""`Drain`: operations under way that somebody waits for."""

from __future__ import annotations

import asyncio

import anyio

from .running import Running, ThreadRunning


class Drain:
    """Operations that were under way at one moment, and have not ended since."""

    def __init__(self, left: set[Running | ThreadRunning]) -> None:
        self.left = left
        """Those that are still under way."""
        self._is_empty = asyncio.Event()
        if not left:
            self._is_empty.set()

    def ended(self, running: Running | ThreadRunning) -> None:
        """Takes note that an operation has ended, one of these or another."""
        self.left.discard(running)
        if not self.left:
            self._is_empty.set()

    async def wait(self, seconds: float) -> None:
        """Waits until all have ended, for `seconds` at most."""
        with anyio.move_on_after(seconds):
            await self._is_empty.wait()
