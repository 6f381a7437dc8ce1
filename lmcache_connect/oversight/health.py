"""`HealthCheck`: whether the stores of a manager answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import anyio

from ..errors import LMCacheConnectError, OperationTimeoutError
from ..managed import BreakerState, ManagedConnector
from ..manager import ConnectorManager

Health: TypeAlias = Literal["ok", "failing", "unknown", "closed", "bypassed"]
"""`ok` and `failing` are a ping's outcome. `unknown`: the store has no ping. The others are not asked."""


@dataclass(frozen=True)
class StoreHealth:
    """The health of one connector's store. `seconds` is the ping's round trip, `error` the class of its failure."""

    connector: str
    health: Health
    seconds: float | None = None
    error: str | None = None
    detail: str | None = None
    """The failure's message. It holds no secret."""

    @property
    def is_usable(self) -> bool:
        """Whether the store is not failing. One that an operator closed or bypassed is not failing."""
        return self.health != "failing"


class HealthCheck:
    """Pings the stores of a manager, all at once, and each at most once per `freshness` seconds.

    Runs on the manager's event loop, and may be awaited from any loop.
    """

    def __init__(
        self, manager: ConnectorManager, freshness: float = 0.5, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._manager = manager
        self._freshness = freshness
        self._clock = clock
        self._running: asyncio.Task[tuple[StoreHealth, ...]] | None = None
        self._found: tuple[StoreHealth, ...] = ()
        self._found_at = -float("inf")

    async def check(self, timeout: float) -> tuple[StoreHealth, ...]:
        """The health of every known connector, in the manager's order. Never raises for a store.

        It takes `timeout` seconds at most. An outcome that is at most `freshness` seconds old is returned as it is.
        Calls that come while the stores are being asked wait for the same outcome.
        """
        if not self._manager.known_connectors:
            return ()  # the manager may have no event loop yet, and reading must not start one
        return await self._manager.owner.run(self._check, timeout)

    async def _check(self, timeout: float) -> tuple[StoreHealth, ...]:
        if self._clock() - self._found_at < self._freshness:
            return self._found
        if self._running is None or self._running.done():
            # A task of its own: a caller who is cancelled must not take the others' answer away.
            self._running = asyncio.get_running_loop().create_task(self._ask(timeout))
        return await asyncio.shield(self._running)

    async def _ask(self, timeout: float) -> tuple[StoreHealth, ...]:
        connectors = self._manager.known_connectors
        found: dict[str, StoreHealth] = {}

        async def ask(connector: ManagedConnector) -> None:
            found[connector.name] = await _health(connector, timeout)

        async with anyio.create_task_group() as group:
            for connector in connectors:
                group.start_soon(ask, connector)
        self._found = tuple(found[connector.name] for connector in connectors)
        self._found_at = self._clock()
        return self._found


async def _health(connector: ManagedConnector, timeout: float) -> StoreHealth:
    if connector.is_closed:
        return StoreHealth(connector.name, "closed")
    if connector.bypass:
        return StoreHealth(connector.name, "bypassed")
    if not connector.support_ping():
        if connector.breaker_state is BreakerState.OPEN:
            return StoreHealth(connector.name, "failing", None, "CircuitOpenError", "its last calls failed")
        return StoreHealth(connector.name, "unknown")
    started = time.perf_counter()
    try:
        async with asyncio.timeout(timeout):
            await connector.ping()
    except TimeoutError as error:
        late = (
            error if isinstance(error, LMCacheConnectError) else OperationTimeoutError(connector.store, "ping", timeout)
        )
        return StoreHealth(connector.name, "failing", None, type(late).__name__, str(late))
    except LMCacheConnectError as error:
        if connector.is_closed:
            return StoreHealth(connector.name, "closed")
        return StoreHealth(connector.name, "failing", None, type(error).__name__, str(error))
    return StoreHealth(connector.name, "ok", time.perf_counter() - started)
