"""`BreakableStore`: a store that a rule may break and mend, and a connector to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from ..managed import ManagedConnector

if TYPE_CHECKING:
    from .servers.fault_proxy import FaultProxy


class BreakableStore:
    """What stands between a rule and the way in which its suite's author lets it break the store.

    Attributes:
        connector: one to the store, which the manager closes.
        another: makes one more, which the manager closes.
        proxy: between `connector` and the store; None where the author breaks the store in a way of their own.
    """

    def __init__(
        self,
        connector: ManagedConnector,
        proxy: FaultProxy | None,
        break_store: Callable[[], Awaitable[None]],
        mend_store: Callable[[], Awaitable[None]],
        another: Callable[[], Awaitable[ManagedConnector]],
    ) -> None:
        self.connector = connector
        self.proxy = proxy
        self._break_store = break_store
        self._mend_store = mend_store
        self._is_broken = False
        self.another = another

    @property
    def fault_proxy(self) -> FaultProxy:
        """The proxy, for a rule that has asked for one."""
        assert self.proxy is not None
        return self.proxy

    async def fail(self) -> None:
        """From now on the store refuses everything, also what is under way."""
        self._is_broken = True
        if self.proxy is None:
            await self._break_store()
        else:
            await asyncio.to_thread(self.proxy.stop)

    async def mend(self) -> None:
        """The store works again. Does nothing where it works."""
        if not self._is_broken:
            return
        self._is_broken = False
        if self.proxy is None:
            await self._mend_store()
        else:
            await asyncio.to_thread(self.proxy.start)
