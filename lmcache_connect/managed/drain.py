"""`Drain`: operations under way that `close` waits for."""

from __future__ import annotations

import asyncio

import anyio


class Drain:
    """Operations that somebody waits for."""

    def __init__(self, left: set[anyio.CancelScope]) -> None:
        self.left = left
        self._is_empty = asyncio.Event()
        if not left:
            self._is_empty.set()

    def ended(self, scope: anyio.CancelScope) -> None:
        self.left.discard(scope)
        if not self.left:
            self._is_empty.set()

    async def wait(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await self._is_empty.wait()
