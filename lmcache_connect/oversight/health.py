"""`HealthCheck`: whether the stores of a manager answer, and whether operations on them succeed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

import anyio

from ..contract import ServerFacts
from ..errors import LMCacheConnectError, OperationTimeoutError
from ..managed import BreakerState, ManagedConnector
from ..manager import ConnectorManager
from ..observability import event
from .fleet import FleetTraffic, FleetWatch
from .loop_lag import LoopLag
from .recent import Recent, RecentCounts
from .trouble import Trouble, advice_for, trouble_of

_LOOP_GRACE: Final = 0.25
"""Seconds that the connectors' event loop may be late with an outcome for another loop."""

_FACTS_FRESHNESS: Final = 5.0
"""Seconds for which it counts what a store's servers have told."""

_FACTS_PAUSE: Final = 60.0
"""Seconds after which a store is asked again that failed to: a proxy may have closed its connection over it."""

_FACTS_SECONDS: Final = 0.75
"""Seconds that they have to tell it."""

Health: TypeAlias = Literal["ok", "degraded", "failing", "unknown", "closed", "bypassed"]
"""`failing`: the store does not answer a ping. `degraded`: it may answer one, but operations fail. `ok`: neither.

`unknown`: it has no ping, and no operation fails. `closed` and `bypassed` ones are not asked.
"""


Fleet: TypeAlias = asyncio.Task[Mapping[str, FleetTraffic]]


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
    recent: RecentCounts = field(default_factory=RecentCounts)
    """What the connector counted in the last minute."""
    servers: tuple[ServerFacts, ...] = ()
    """What the store's servers tell of themselves, at most five seconds ago."""
    started: float | None = None
    """When the youngest of those was started, in seconds since 1970."""
    others: FleetTraffic | None = None
    """What other workers do on the store; None where none is known."""

    @property
    def advice(self) -> str | None:
        """What to do about the error; None without an error."""
        return self.trouble[0].advice if self.trouble else advice_for(self.error) if self.error else None

    @property
    def is_usable(self) -> bool:
        """Whether the store is not failing. One that is degraded, or that an operator closed or bypassed, is not."""
        return self.health != "failing"


class HealthCheck:
    """Pings the stores of a manager, all at once, and each at most once per `freshness` seconds.

    A ping alone does not say that a store serves: one that is full, or read-only, answers it. So the operations of the
    application count as well, what the store's servers tell of themselves, and what other workers announce. Nothing
    that is asked here is in the statistics.

    Runs on the manager's event loop, and may be awaited from any loop.
    """

    def __init__(
        self,
        manager: ConnectorManager,
        freshness: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
        *,
        fleet: FleetWatch | None = None,
    ) -> None:
        """`fleet`: where other workers' calls are looked up. Without it, they do not count."""
        self.lag: Final = LoopLag()
        """How late the connectors' event loop is, from the first check on."""
        self._fleet = fleet
        self._watched: dict[str, _Watched] = {}
        self._manager = manager
        self._freshness = freshness
        self._clock = clock
        self._asked: asyncio.Future[tuple[StoreHealth, ...]] | None = None
        self._running: asyncio.Task[tuple[StoreHealth, ...]] | None = None
        self._found: tuple[StoreHealth, ...] = ()
        self._found_at = -float("inf")

    @property
    def last(self) -> tuple[StoreHealth, ...]:
        """The outcome of the last check; nothing before the first one. From any thread."""
        return self._found

    async def check(self, timeout: float) -> tuple[StoreHealth, ...]:
        """The health of every known connector, in the manager's order. Never raises for a store.

        It takes `timeout` seconds at most. Where the connectors' event loop stands still, it takes 0.25 s more, and all
        of them are failing. An outcome that is at most `freshness` seconds old is returned as it is.
        Calls that come while the stores are being asked wait for the same outcome.
        """
        if not self._manager.known_connectors:
            return ()  # the manager may have no event loop yet, and reading must not start one
        owner = self._manager.owner
        if owner.is_current():
            return await self._check(timeout)
        # Not awaited itself: a call to a loop that stands still ends when that loop goes on, also if it is cancelled.
        asked = self._asked
        if asked is None or asked.done() or asked.get_loop() is not asyncio.get_running_loop():
            asked = self._asked = asyncio.ensure_future(owner.run(self._check, timeout))
            asked.add_done_callback(_retrieve)
        await asyncio.wait((asked,), timeout=timeout + _LOOP_GRACE)
        if asked.done():
            return asked.result()
        text = "the event loop of the connectors does not get on: GET /threads shows what runs on it"
        return tuple(
            StoreHealth(one.name, "failing", None, "LoopNotRunningError", text)
            for one in self._manager.known_connectors
        )

    async def _check(self, timeout: float) -> tuple[StoreHealth, ...]:
        if self._clock() - self._found_at < self._freshness:
            return self._found
        if self._running is None or self._running.done():
            # A task of its own: a caller who is cancelled must not take the others' answer away.
            self._running = asyncio.get_running_loop().create_task(self._ask(timeout))
        return await asyncio.shield(self._running)

    async def _ask(self, timeout: float) -> tuple[StoreHealth, ...]:
        self.lag.watch()
        connectors = self._manager.known_connectors
        self._watched = {one.name: self._watched.get(one.name) or _Watched(self._clock) for one in connectors}
        found: dict[str, StoreHealth] = {}

        async with asyncio.TaskGroup() as group:
            fleet = group.create_task(self._look(timeout))  # while the stores are pinged

            async def ask(connector: ManagedConnector) -> None:
                found[connector.name] = await self._watched[connector.name].health(connector, timeout, fleet)

            for connector in connectors:
                group.create_task(ask(connector))
        self._found = tuple(found[connector.name] for connector in connectors)
        self._found_at = self._clock()
        return self._found

    async def _look(self, timeout: float) -> Mapping[str, FleetTraffic]:
        return await self._fleet.look(timeout) if self._fleet is not None else {}


class _Watched:
    """What is remembered of one connector between two checks."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._recent = Recent(clock)
        self._facts: tuple[ServerFacts, ...] = ()
        self._facts_at = -float("inf")
        self._started: dict[str, float] = {}

    async def health(self, connector: ManagedConnector, timeout: float, fleet: Fleet) -> StoreHealth:
        """The connector's health now. Takes `timeout` seconds at most."""
        recent = self._recent.look(connector)
        found = await self._asked(connector, timeout, recent, fleet)
        return replace(
            found,
            recent=recent,
            servers=self._facts,
            started=max(self._started.values(), default=None),
            others=(await fleet).get(connector.name),
        )

    async def _asked(
        self, connector: ManagedConnector, timeout: float, recent: RecentCounts, fleet: Fleet
    ) -> StoreHealth:
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
            others = (await fleet).get(connector.name)
            left = timeout - (time.perf_counter() - started)
            await self._ask_servers(connector, min(_FACTS_SECONDS, left))
        else:
            others = (await fleet).get(connector.name)
        trouble = trouble_of(connector, recent, facts=self._facts, others=others, ping=seconds)
        if connector.breaker_state is BreakerState.OPEN and not connector.support_ping():
            return StoreHealth(connector.name, "failing", None, "CircuitOpenError", "its last calls failed", trouble)
        if trouble:
            return StoreHealth(connector.name, "degraded", seconds, trouble[0].error, trouble[0].detail, trouble)
        return StoreHealth(connector.name, "unknown" if seconds is None else "ok", seconds)

    async def _ask_servers(self, connector: ManagedConnector, timeout: float) -> None:
        if self._clock() - self._facts_at < _FACTS_FRESHNESS:
            return
        self._facts_at = self._clock()
        facts: tuple[ServerFacts, ...] = ()
        with anyio.move_on_after(timeout):
            try:
                facts = tuple(await connector.server_facts())
            except Exception as error:  # whatever it is, the store has answered the ping
                self._facts_at += _FACTS_PAUSE - _FACTS_FRESHNESS
                event(logging.DEBUG, "server_facts_unread", store=connector.store, error=type(error).__name__)
        self._facts = facts
        # Kept from the first answer of a server: the seconds that it says are whole ones.
        now = time.time()
        self._started = {one.run_id: self._started.get(one.run_id, now - one.uptime) for one in facts} or self._started


def _retrieve(asked: asyncio.Future[tuple[StoreHealth, ...]]) -> None:
    if not asked.cancelled():
        asked.exception()  # so that asyncio does not log it, where nobody waits any more


def _failing(connector: ManagedConnector, error: Exception) -> StoreHealth:
    return StoreHealth(connector.name, "failing", None, type(error).__name__, str(error), trouble_of(connector))
