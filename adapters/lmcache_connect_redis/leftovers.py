"""`Leftovers`: frees what puts have left on the server that failed or were cancelled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from contextvars import Context
from functools import partial
from typing import Final

import anyio

from lmcache_connect import StoreError
from lmcache_connect.errors import ConnectorClosedError
from lmcache_connect.streaming import CombinedCall
from lmcache_connect.transport import ConnectionPool

from .protocol.connection import Connection
from .protocol.replies import encode_for_each

_SECONDS: Final = 1.0
"""How long freeing may take. What is not freed by then expires."""

_SECONDS_AT_END: Final = 0.5
"""How long closing waits for it. Closing a connector often follows the cancellation of its puts."""


class Leftovers:
    """Temporary keys that nobody will complete. They expire by themselves; freed at once, they take no room until then.

    A put that has ended may have pieces on their way, which make the keys again. So they are freed at once, and again
    when nothing more happens for its call. Belongs to one event loop.
    """

    def __init__(self, pool: ConnectionPool[Connection]) -> None:
        self._pool = pool
        self._names: list[str] = []
        self._freeing: asyncio.Task[None] | None = None
        self._later: set[asyncio.Future[None]] = set()
        """What is waited for before more is freed."""

    async def free(self, names: Iterable[str], call: CombinedCall) -> None:
        """Frees what `call` has left, if the server lets us within a second."""
        if not (names := [*names]):
            return
        with anyio.move_on_after(_SECONDS):
            while (over := call.when_over()) is not None:
                await over
            await self._unlink(names)

    async def _unlink(self, names: Sequence[str]) -> None:
        try:
            with anyio.move_on_after(_SECONDS):
                async with self._pool.acquired() as connection:
                    # A command for each: in a cluster, they lie in different slots.
                    await connection.send(encode_for_each("UNLINK", names), replies=len(names))
                    await connection.discard_integers()
        except (StoreError, ConnectorClosedError):
            pass

    def free_soon(self, names: Iterable[str], call: CombinedCall | None = None) -> None:
        """The same, without the caller: one that was cancelled, or is late, does not wait for it.

        `call`: None where nothing is on its way any more.
        """
        if not (names := [*names]):
            return
        if call is not None and (over := call.when_over()) is not None:
            self._later.add(over)
            over.add_done_callback(partial(self._free_later, names, call))
        self._names += names
        if self._freeing is None:
            # In a context of its own: the operation that left them has ended, and its lease with it.
            self._freeing = asyncio.create_task(self._free_all(), context=Context())

    def _free_later(self, names: Iterable[str], call: CombinedCall, over: asyncio.Future[None]) -> None:
        if over in self._later:
            self._later.discard(over)
            self.free_soon(names, call)

    async def close(self) -> None:
        """Waits a moment for what is being freed. Gives up the rest."""
        ends = time.monotonic() + _SECONDS_AT_END
        while self._later and (left := ends - time.monotonic()) > 0:
            await asyncio.wait(self._later, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0)  # until their callbacks have run
        self._later.clear()
        if (freeing := self._freeing) is not None:
            await asyncio.wait((freeing,), timeout=_SECONDS_AT_END)
            freeing.cancel()
            await asyncio.wait((freeing,))

    async def _free_all(self) -> None:
        try:
            while self._names:
                names, self._names = self._names, []
                await self._unlink(names)
        finally:
            self._freeing = None
