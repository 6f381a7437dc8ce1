"""`lmcache-connect ping`: asks a store whether it answers, and measures how fast."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from ...config import ConnectorConfig
from ...contract import ServerState
from ...errors import OperationTimeoutError
from ...manager import ConnectorManager
from ...memory import LocalCPUBackend
from ...url import RemoteURL

SAMPLES: Final = 5
"""The number of round trips that are measured, after the first one, which connects."""

_ARENA_BYTES: Final = 4096
_KEY: Final = "lmcache-connect-ping"


@dataclass(frozen=True)
class PingReport:
    """A store that answered. `store` is a redacted URL. Times are seconds.

    `operation` is the call that was measured: `ping`, or `exists` of one key where the connector does not support ping.
    """

    store: str
    operation: str
    connect_seconds: float
    """The time of the first call, which includes connecting."""
    round_trip_seconds: float
    """The median time of the later calls."""
    silent: tuple[ServerState, ...] = ()
    """Servers of the store that have not answered, where others have. Only connectors of several servers tell."""


async def run_ping(url: str, timeout: float) -> PingReport:
    """Connects to the store at `url` and measures a few calls. Changes nothing in the store.

    Raises:
        LMCacheConnectError: the URL is wrong, the store refused, or the calls together took more than `timeout`
            seconds.
    """
    remote_url = RemoteURL.parse(url)
    config = ConnectorConfig.load(errors="raise", operation_timeout=timeout)
    with LocalCPUBackend(_ARENA_BYTES) as backend:
        async with ConnectorManager(remote_url, None, backend, config) as manager:
            connector = manager.create_connector()
            operation = "ping" if connector.support_ping() else "exists"
            ask: Callable[[], Awaitable[Any]] = (
                connector.ping if operation == "ping" else lambda: connector.exists(_KEY)
            )
            try:
                async with asyncio.timeout(timeout):
                    first, *others = [await _seconds(ask) for _ in range(1 + SAMPLES)]
            except TimeoutError as error:
                if isinstance(error, OperationTimeoutError):
                    raise
                raise OperationTimeoutError(remote_url.label(), operation, timeout) from None
            silent = tuple(server for server in connector.servers() if server.failures)
    return PingReport(remote_url.redacted(), operation, first, statistics.median(others), silent)


async def _seconds(ask: Callable[[], Awaitable[Any]]) -> float:
    started = time.perf_counter()
    await ask()
    return time.perf_counter() - started
