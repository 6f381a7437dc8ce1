"""`FleetWatch`: what the other processes that use the same stores do there, as they announce it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import anyio

from ..contract import AnnouncedConnector, WorkerAnnouncement
from ..managed import GETS, PUTS, BreakerState, ManagedConnector
from ..manager import ConnectorManager


@dataclass(frozen=True)
class FleetTraffic:
    """What other workers did on one store. Counters begin with each worker.

    Rates are of the last interval between two announcements of a worker, and None until it has made two.
    """

    workers: int
    announced: float
    """When the newest announcement was made, in seconds since 1970, by that worker's clock."""
    hits: int
    misses: int
    errors: int
    get_rate: float | None
    """Bytes of chunks per second."""
    put_rate: float | None
    failing_share: float | None
    """The share of the calls of the last interval that failed; None where none was made."""


class FleetWatch:
    """Reads the announcements in the stores of a manager, at most once per `freshness` seconds.

    Stores that are closed, down or cannot keep announcements are left out. Runs on the manager's event loop, and may be
    awaited from any loop.
    """

    def __init__(
        self, manager: ConnectorManager, freshness: float = 2.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._manager = manager
        self._freshness = freshness
        self._clock = clock
        self._looked = -float("inf")
        self._found: Mapping[str, FleetTraffic] = {}
        self._seen: dict[tuple[str, str], _Seen] = {}

    async def look(self, timeout: float) -> Mapping[str, FleetTraffic]:
        """The traffic of other workers, by the name of the connector to their store. Never raises for a store.

        A store that does not answer within `timeout` seconds is left out, and so is one without other workers.
        """
        if not self._manager.known_connectors:
            return {}  # the manager may have no event loop yet, and reading must not start one
        return await self._manager.owner.run(self._look, timeout)

    async def _look(self, timeout: float) -> Mapping[str, FleetTraffic]:
        if self._clock() - self._looked < self._freshness:
            return self._found
        self._looked = self._clock()  # those who ask meanwhile are given what was found before
        found: dict[str, FleetTraffic] = {}
        seen: dict[tuple[str, str], _Seen] = {}
        async with anyio.create_task_group() as group:
            for connector in self._manager.known_connectors:
                if _may_be_asked(connector):
                    group.start_soon(self._ask, connector, timeout, found, seen)
        self._found, self._seen = found, seen
        return found

    async def _ask(
        self,
        connector: ManagedConnector,
        timeout: float,
        found: dict[str, FleetTraffic],
        seen: dict[tuple[str, str], _Seen],
    ) -> None:
        documents = []
        with anyio.move_on_after(timeout):
            try:
                documents = await connector.wrapped.announced()
            except Exception:  # whatever it is: the health check says what is wrong with the store
                return
        this = self._manager.announcer.worker if self._manager.announcer is not None else None
        others = []
        for document in documents:
            announcement = WorkerAnnouncement.decode(document)
            if announcement is None or announcement.worker == this:
                continue
            counted = _Counted.of(_on_this_store(announcement, connector.store))
            key = connector.name, announcement.worker
            seen[key] = self._seen.get(key, _Seen()).then(announcement.announced, counted)
            others.append(seen[key])
        if others:
            found[connector.name] = _traffic(others)


@dataclass(frozen=True)
class _Counted:
    """The sums of one announcement."""

    hits: int = 0
    misses: int = 0
    got: int = 0
    put: int = 0
    calls: int = 0
    errors: int = 0

    @classmethod
    def of(cls, connectors: Iterable[AnnouncedConnector]) -> _Counted:
        hits = misses = got = put = calls = errors = 0
        for connector in connectors:
            for name, one in connector.statistics.items():
                calls += one.calls
                errors += one.errors
                if name in GETS:
                    hits += one.hits
                    misses += one.misses
                    got += one.bytes
                elif name in PUTS:
                    put += one.bytes
        return cls(hits, misses, got, put, calls, errors)


@dataclass(frozen=True)
class _Seen:
    """The two newest announcements of one worker."""

    at: float = 0.0
    counted: _Counted = field(default_factory=_Counted)
    before_at: float = 0.0
    before: _Counted | None = None

    def then(self, at: float, counted: _Counted) -> _Seen:
        if self.at == 0.0:
            return _Seen(at, counted)
        return self if at <= self.at else _Seen(at, counted, self.at, self.counted)


def _traffic(others: list[_Seen]) -> FleetTraffic:
    get_rate = put_rate = None
    calls = errors = 0
    for one in others:
        if one.before is None:
            continue
        seconds = one.at - one.before_at
        get_rate = (get_rate or 0.0) + max(0, one.counted.got - one.before.got) / seconds
        put_rate = (put_rate or 0.0) + max(0, one.counted.put - one.before.put) / seconds
        calls += max(0, one.counted.calls - one.before.calls)
        errors += max(0, one.counted.errors - one.before.errors)
    return FleetTraffic(
        workers=len(others),
        announced=max(one.at for one in others),
        hits=sum(one.counted.hits for one in others),
        misses=sum(one.counted.misses for one in others),
        errors=sum(one.counted.errors for one in others),
        get_rate=get_rate,
        put_rate=put_rate,
        failing_share=min(1.0, errors / calls) if calls else None,
    )


def _on_this_store(announcement: WorkerAnnouncement, store: str) -> list[AnnouncedConnector]:
    """The worker's connectors to a store. It may know the store by another name: then its only connector is meant."""
    if len(announcement.connectors) == 1:
        return list(announcement.connectors)
    return [connector for connector in announcement.connectors if connector.store == store]


def _may_be_asked(connector: ManagedConnector) -> bool:
    is_up = not connector.is_closed and connector.breaker_state is BreakerState.CLOSED
    return is_up and connector.has_succeeded and connector.wrapped.support_announcements()
