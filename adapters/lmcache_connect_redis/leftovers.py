"""`Leftovers`: frees what puts have left on the server that failed or were cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextvars import Context
from typing import Final

import anyio

from lmcache_connect import StoreError
from lmcache_connect.transport import ConnectionPool

from .protocol.connection import Connection
from .protocol.replies import encode_command

_SECONDS: Final = 1.0
"""How long freeing may take. What is not freed by then expires."""

_SECONDS_AT_END: Final = 0.5
"""How long closing waits for it. Closing a connector often follows the cancellation of its puts."""


class Leftovers:
    """Temporary keys that nobody will complete. They expire by themselves; freed at once, they take no room until then.

    Belongs to one event loop.
    """

    def __init__(self, pool: ConnectionPool[Connection]) -> None:
        self._pool = pool
        self._names: list[str] = []
        self._freeing: asyncio.Task[None] | None = None

    async def free(self, names: Iterable[str]) -> None:
        """Frees keys, if the server lets us within a second."""
        if not (keys := [name.encode() for name in names]):
            return
        try:
            with anyio.move_on_after(_SECONDS):
                async with self._pool.acquired() as connection:
                    await connection.send(encode_command(b"UNLINK", *keys))
                    await connection.discard_integers()
        except StoreError:
            pass

    def free_soon(self, names: Iterable[str]) -> None:
        """The same, without the caller: one that was cancelled, or is late, does not wait for it."""
        self._names += names
        if self._names and self._freeing is None:
            # In a context of its own: the operation that left them has ended, and its lease with it.
            self._freeing = asyncio.create_task(self._free_all(), context=Context())

    async def close(self) -> None:
        """Waits a moment for what is being freed. Gives up the rest."""
        if (freeing := self._freeing) is not None:
            await asyncio.wait((freeing,), timeout=_SECONDS_AT_END)
            freeing.cancel()
            await asyncio.wait((freeing,))

    async def _free_all(self) -> None:
        try:
            while self._names:
                names, self._names = self._names, []
                await self.free(names)
        finally:
            self._freeing = None
