"""`lmcache-connect serve`: runs the internal API for a manager with connectors to the given stores."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Callable, Sequence
from typing import Any, Final

from ...internal_api_server import APIServerConfig, InternalAPIServer
from ...manager import ConnectorManager
from ...observability import event
from .serving import ServedStore, Serving

_FIRST_PING: Final = 1.0
"""Seconds that the stores have to answer at the start. A store that does not answer is served as not ready."""


async def run_server(urls: Sequence[str], settings: dict[str, Any], on_start: Callable[[Serving], None]) -> int:
    """Serves until SIGTERM or SIGINT, then stops gracefully. Returns the signal's number.

    A second signal ends the process without waiting.

    Raises:
        LMCacheConnectError: a URL or a setting is wrong, or the server cannot listen.
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
            # The garbage collector stops all transfers while it runs. It need not look at objects that live to the end.
            gc.collect()
            gc.freeze()
            with _signals(stop):
                on_start(Serving(server.address or "", server.metrics_address, stores))
                number = await stop
            event(logging.INFO, "api_stopping", signal=signal.Signals(number).name)
    return number


class _signals:  # noqa: N801  # used like a function
    """In the `with` block, SIGTERM and SIGINT resolve the future. After the first signal, the old handlers are back."""

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
