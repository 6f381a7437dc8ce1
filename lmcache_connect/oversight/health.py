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
"""`ok` and `failing` are a ping's outcome; `unknown`: its store has no ping; the others: nobody asks it."""


@dataclass(frozen=True)
class StoreHealth:
    """How one connector's store is. `seconds` is the round trip of the ping, `error` the class of its failure."""

    connector: str
    health: Health
    seconds: float | None = None
    error: str | None = None
    detail: str | None = None
    """The failure's message, which holds no secret."""

    @property
    def is_usable(self) -> bool:
        """Whether nothing is known against it. One that an operator closed or bypassed is nobody's failure."""
        return self.health != "failing"


class HealthCheck:
    """Pings the stores of a manager, all at once. However many ask, a store is asked once per `freshness` seconds.

    Lives on the manager's event loop, and may be awaited from any.
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
        """One per known connector, in the manager's order, after `timeout` seconds at most. Never raises for a store.

        An outcome that is at most `freshness` seconds old is given as it is, and those who ask while the stores are
        asked wait for the same answer.
        """
        if not self._manager.known_connectors:
            return ()  # and the manager may have no event loop yet: asking for its health must not start one
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
