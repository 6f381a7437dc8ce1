"""`SharedStore`: one connector for all ports of this process that have the same URL and settings."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from ..config import ConnectorConfig
from ..manager import ConnectorManager
from ..observability import JobStatistics, event
from ..outside import described
from ..process import ModuleLock
from .job_line import JobLine
from .shared_loop import SharedLoop

_CLOSE_SECONDS: Final = 3.0
"""Seconds, beside the grace period, that a connector has to close."""


class SharedStore:
    """A manager, its one connector, and the line of jobs for it. `open_store` gives one, and each is closed once."""

    def __init__(self, url: str, settings: ConnectorConfig, loop: SharedLoop) -> None:
        """Raises what `ConnectorManager` and its `create_connector` raise."""
        self.url: Final = url
        self.settings: Final = settings
        self.loop: Final = loop
        self.users = 0
        """The ports that have it open. Under the lock of this module."""
        self.manager: Final = ConnectorManager(url, loop.owner.loop, None, settings)
        """The manager that made the connector."""
        try:
            self.connector: Final = self.manager.create_connector()
            """The connector that the jobs use."""
        except BaseException:
            self._close_manager()
            raise
        # Only a connector that the setting `trusted_modules` names is called without something of ours around it.
        loop.trusted |= {type(self.connector.inside).__module__.partition(".")[0]}
        self.line: Final = JobLine(self.connector, loop.owner.loop, settings.breaker_reset)
        """Where jobs are posted."""

    def begin_counting(self, statistics: Callable[[], JobStatistics]) -> None:
        """Has the manager's metrics count one port's jobs, which `statistics` gives a copy of."""
        self.manager.job_counts.begin(statistics)

    def close(self, statistics: Callable[[], JobStatistics]) -> None:
        """Ends one port's use of it. Blocks until the connector is closed where it was the last one, in bounded time.

        `statistics` is what `begin_counting` was given. In a fork it does nothing: all of it is the parent's.
        """
        if self.loop.process.is_forked():
            return
        self.manager.job_counts.end(statistics)
        with _lock:
            self.users -= 1
            if self.users:
                return
            _stores.remove(self)
            is_last = all(store.loop is not self.loop for store in _stores)
        self._close_manager()
        if is_last:
            self.loop.close()

    def _close_manager(self) -> None:
        closing = asyncio.run_coroutine_threadsafe(self.manager.close(), self.loop.owner.loop)
        try:
            closing.result(self.settings.close_grace + _CLOSE_SECONDS)
        except Exception as error:  # nothing more can be done about it
            closing.cancel()
            event(logging.WARNING, "engine_store_not_closed", store=repr(self.manager), error=described(error))


_lock: Final = ModuleLock()
_stores: Final[list[SharedStore]] = []
"""Those that are open, in the order of their opening. In a fork it begins with those of the parent, which stay."""


def open_store(url: str, settings: ConnectorConfig) -> SharedStore:
    """The store of a URL with these settings: one that a port of this process has open already, or a new one.

    Raises:
        What `ConnectorManager` and its `create_connector` raise.
    """
    with _lock:
        here = [store for store in _stores if not store.loop.process.is_forked()]
        for store in here:
            if store.url == url and store.settings == settings:
                store.users += 1
                return store
        loop = here[0].loop if here else SharedLoop()
        try:
            made = SharedStore(url, settings, loop)
        except BaseException:
            if not here:
                loop.close()
            raise
        made.users = 1
        _stores.append(made)
        return made
