"""`Announcer`: keeps a manager's announcement alive in the stores that it uses."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import socket
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Final

import anyio

from .._version import __version__
from ..contract import AnnouncedArena, AnnouncedConnector, AnnouncedStatistics, WorkerAnnouncement
from ..errors import LMCacheConnectError
from ..managed import BreakerState, ManagedConnector
from ..memory import ChunkMemory
from ..observability import OperationStatistics, event

FIRST_AFTER: Final = 1.0
"""Seconds from when a connector is made until the announcer looks for the first time whether it was used."""

DEFAULT_INTERVAL: Final = 10.0
"""Seconds between announcements where the setting `announce_interval` is left out and an API server runs."""

_ANSWER_SECONDS: Final = 2.0
"""Seconds that a store has to take an announcement."""

_MOST_CONNECTORS: Final = 64
"""Connectors that one announcement may describe."""


class Announcer:
    """Tells the stores that a manager uses that this manager is there, where they can keep announcements.

    It does so where the application has asked for it, or while an internal API serves the manager. Otherwise it writes
    nothing. An announcement is repeated every `interval` seconds. The store keeps it for three times as long, so that
    of a process that died it disappears. A store that is down, or refuses, is tried again the next time. No operation
    waits for an announcement or fails because of one. Timers on the connectors' event loop drive it; they hold this
    object by weak reference and end with it.
    """

    def __init__(
        self,
        interval: float | None,
        connectors: Callable[[], Iterable[ManagedConnector]],
        backend: Callable[[], ChunkMemory | None],
    ) -> None:
        """`interval` is the setting `announce_interval`, which is not 0 here."""
        self.worker: Final = f"{_plain(socket.gethostname())}-{os.getpid()}-{secrets.token_hex(4)}"
        """The name of this manager in announcements. No other manager has had it."""
        self.api: str | None = None
        """Where this manager's internal API listens; None where it has none."""
        self._is_asked_for = interval is not None
        self._interval = DEFAULT_INTERVAL if interval is None else interval
        self._connectors = connectors
        self._backend = backend
        self._started = time.time()
        self._ticking = False
        self._announced: weakref.WeakSet[ManagedConnector] = weakref.WeakSet()
        self._refused: weakref.WeakSet[ManagedConnector] = weakref.WeakSet()
        self._round: asyncio.Task[None] | None = None
        self._ended = False

    @property
    def is_wanted(self) -> bool:
        """Whether anything is to be announced now: the setting asks for it, or an internal API serves the manager."""
        return self._is_asked_for or self.api is not None

    def serve_at(self, address: str | None, loop: asyncio.AbstractEventLoop | None) -> None:
        """Notes where an internal API serves the manager, and begins. `loop` is the connectors', if there is one.

        May be called from any thread. Does nothing where one serves it elsewhere already.
        """
        if self.api is None and address is not None:
            self.api = address
            if loop is not None:
                self.begin(loop)

    def stop_serving_at(self, address: str | None) -> None:
        """Notes that the internal API at this address serves the manager no longer. May be called from any thread.

        Where only that was the reason to announce, the announcements are withdrawn at the next interval.
        """
        if self.api == address:
            self.api = None

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Starts the timers, from any thread, if announcements are wanted. Further calls do nothing."""
        if self.is_wanted and not self._ticking:
            self._ticking = True
            this: weakref.ref[Announcer] = weakref.ref(self)
            loop.call_soon_threadsafe(_later, loop, FIRST_AFTER, this)

    def tick(self, loop: asyncio.AbstractEventLoop) -> None:
        """Starts one round of announcements, and the timer for the next one."""
        if self._ended:
            return
        if self._round is None or self._round.done():
            self._round = loop.create_task(self.announce())
        # Until a store has been used, the next look comes soon, so that the first announcement does not wait long.
        is_done = self._announced or not self.is_wanted
        _later(loop, self._interval if is_done else min(FIRST_AFTER, self._interval), weakref.ref(self))

    async def announce(self) -> None:
        """Announces this manager to every store that was used and is believed to be up. Never raises.

        Where announcements are not wanted any more, it withdraws those that it has made.
        """
        if not self.is_wanted:
            await self._withdraw_all()
            return
        used = [connector for connector in self._connectors() if _is_used(connector)]
        if not used:
            return
        document = self.describe().encode()
        async with anyio.create_task_group() as group:
            for connector in used:
                group.start_soon(self._tell, connector, document)

    def describe(self) -> WorkerAnnouncement:
        """The manager's announcement, as things are now."""
        backend = self._backend()
        arena = AnnouncedArena()
        cached = [cache.statistics() for each in self._connectors() if (cache := each.find_hot_cache()) is not None]
        if backend is not None:
            now = backend.statistics()
            arena = AnnouncedArena(
                capacity=now.capacity,
                reserved=now.reserved,
                cached_keys=now.cached_objects + sum(one.chunks for one in cached),
                cached_bytes=now.cached_bytes + sum(one.bytes for one in cached),
            )
        return WorkerAnnouncement(
            worker=self.worker,
            host=socket.gethostname()[:256],
            pid=os.getpid(),
            version=__version__,
            started=self._started,
            announced=time.time(),
            api=self.api,
            connectors=tuple(_described(connector) for connector in [*self._connectors()][:_MOST_CONNECTORS]),
            arena=arena,
        )

    async def end(self) -> None:
        """Stops, and withdraws the announcements from the stores that are up. Takes bounded time; never raises."""
        self._ended = True
        if self._round is not None:
            self._round.cancel()
            await asyncio.wait((self._round,))
        await self._withdraw_all()

    async def _tell(self, connector: ManagedConnector, document: bytes) -> None:
        try:
            with anyio.fail_after(_ANSWER_SECONDS):
                await connector.inside.announce(self.worker, document, 3 * self._interval)
        except Exception as error:  # of any kind: no operation may fail because of an announcement
            if connector not in self._refused:
                self._refused.add(connector)
                event(logging.INFO, "announcement_refused", store=connector.store, error=_reason(error))
        else:
            self._announced.add(connector)
            self._refused.discard(connector)

    async def _withdraw_all(self) -> None:
        announced = [connector for connector in self._announced if _is_up(connector)]
        self._announced.clear()
        async with anyio.create_task_group() as group:
            for connector in announced:
                group.start_soon(self._withdraw, connector)

    async def _withdraw(self, connector: ManagedConnector) -> None:
        try:
            with anyio.move_on_after(_ANSWER_SECONDS):
                await connector.inside.withdraw(self.worker)
        except Exception as error:  # the announcement expires
            event(logging.DEBUG, "withdrawal_refused", store=connector.store, error=_reason(error))


def _later(loop: asyncio.AbstractEventLoop, seconds: float, announcer: weakref.ref[Announcer]) -> None:
    def fire() -> None:
        alive = announcer()
        if alive is not None:
            alive.tick(loop)

    loop.call_later(seconds, fire)


def _is_up(connector: ManagedConnector) -> bool:
    return not connector.is_closed and connector.breaker_state is BreakerState.CLOSED


def _is_used(connector: ManagedConnector) -> bool:
    # Connecting is the application's first call to make, and a store that is down is the breaker's to probe.
    return _is_up(connector) and connector.inside.support_announcements() and connector.has_succeeded


def _described(connector: ManagedConnector) -> AnnouncedConnector:
    return AnnouncedConnector(
        name=connector.name[:256],
        store=connector.store[:256],
        kind=connector.class_name[:256],
        breaker=connector.breaker_state.value,
        bypass=connector.bypass,
        in_flight=connector.in_flight,
        statistics={name: _summary(counted) for name, counted in connector.statistics().items()},
    )


def _summary(counted: OperationStatistics) -> AnnouncedStatistics:
    return AnnouncedStatistics(
        calls=counted.calls,
        keys=counted.items,
        hits=counted.hits,
        misses=sum(counted.misses.values()),
        errors=sum(counted.errors.values()),
        bytes=counted.bytes,
    )


def _plain(host: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", host)[:64]


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError) and not isinstance(error, LMCacheConnectError):
        return f"no answer within {_ANSWER_SECONDS} s"
    # The text of any other error may hold a secret.
    return str(error) if isinstance(error, LMCacheConnectError) else type(error).__name__
