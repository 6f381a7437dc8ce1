"""`HealthCheck`: whether the stores of a manager answer, and whether operations on them succeed."""

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
from .trouble import Trouble, trouble_of

Health: TypeAlias = Literal["ok", "degraded", "failing", "unknown", "closed", "bypassed"]
"""`failing`: the store does not answer a ping. `degraded`: it may answer one, but operations fail. `ok`: neither.

`unknown`: it has no ping, and no operation fails. `closed` and `bypassed` ones are not asked.
"""


@dataclass(frozen=True)
class StoreHealth:
    """The health of one connector's store. `seconds` is the ping's round trip, `error` the class of its failure."""

    connector: str
    health: Health
    seconds: float | None = None
    error: str | None = None
    detail: str | None = None
    """The failure's message. It holds no secret."""
    trouble: tuple[Trouble, ...] = ()
    """Why it is degraded, or what fails besides a ping."""

    @property
    def is_usable(self) -> bool:
        """Whether the store is not failing. One that is degraded, or that an operator closed or bypassed, is not."""
        return self.health != "failing"


class HealthCheck:
    """Pings the stores of a manager, all at once, and each at most once per `freshness` seconds.

    A ping alone does not say that a store serves: one that is full, or read-only, answers it. So the operations of the
    application count as well. Pings made here are not in the statistics.

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
    seconds = None
    if connector.support_ping():
        started = time.perf_counter()
        try:
            async with asyncio.timeout(timeout):
                await connector.check()
        except TimeoutError as error:
            late = (
                error
                if isinstance(error, LMCacheConnectError)
                else OperationTimeoutError(connector.store, "ping", timeout)
            )
            return _failing(connector, late)
        except LMCacheConnectError as error:
            if connector.is_closed:
                return StoreHealth(connector.name, "closed")
            return _failing(connector, error)
        seconds = time.perf_counter() - started
    trouble = trouble_of(connector)
    if connector.breaker_state is BreakerState.OPEN and not connector.support_ping():
        return StoreHealth(connector.name, "failing", None, "CircuitOpenError", "its last calls failed", trouble)
    if trouble:
        return StoreHealth(connector.name, "degraded", seconds, trouble[0].error, trouble[0].detail, trouble)
    return StoreHealth(connector.name, "unknown" if seconds is None else "ok", seconds)


def _failing(connector: ManagedConnector, error: Exception) -> StoreHealth:
    return StoreHealth(connector.name, "failing", None, type(error).__name__, str(error), trouble_of(connector))
