"""Serve: a manager with connectors to the stores named, and the internal API in front of it."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Callable, Sequence
from typing import Any, Final

from ..internal_api_server import APIServerConfig, InternalAPIServer
from ..manager import ConnectorManager
from ..observability import event
from .serving import ServedStore, Serving

_FIRST_PING: Final = 1.0
"""Seconds that stores have to answer at the start. One that does not is served all the same, as not ready."""


async def run_server(urls: Sequence[str], settings: dict[str, Any], on_start: Callable[[Serving], None]) -> int:
    """Serves until SIGTERM or SIGINT, then stops gracefully; the signal's number. A second signal does not wait.

    Raises:
        LMCacheConnectError: a URL or a setting is wrong, or it cannot listen.
    """
    stop: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    server_config = APIServerConfig.load(**settings)
    async with ConnectorManager() as manager:
        for url in urls:
            await manager.open_connector(url)
        async with InternalAPIServer(manager, server_config) as server:
            health = await server.state.health.check(_FIRST_PING)
            stores = tuple(
                ServedStore(connector.name, connector.store, found.health)
                for connector, found in zip(manager.connectors, health, strict=True)
            )
            # What lives until the end is not looked at again by every collection, which stops all transfers meanwhile.
            gc.collect()
            gc.freeze()
            with _signals(stop):
                on_start(Serving(server.address or "", server.metrics_address, stores))
                number = await stop
            event(logging.INFO, "api_stopping", signal=signal.Signals(number).name)
    return number


class _signals:  # noqa: N801  # used like a function
    """Has SIGTERM and SIGINT resolve a future for the block, in which a second one raises as it would outside."""

    def __init__(self, stop: asyncio.Future[int]) -> None:
        self._stop = stop
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()

        def received(number: int, _frame: object) -> None:
            for known, handler in self._before.items():
                signal.signal(known, handler)
            loop.call_soon_threadsafe(lambda: None if self._stop.done() else self._stop.set_result(number))

        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, received)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
