"""What several routes answer with: connectors, their operations, the hot cache."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from ..contract import ServerFacts, ServerState
from ..managed import GETS, PUTS, ManagedConnector
from ..manager import ConnectorManager
from ..memory import HotCache as Cache
from ..observability import Histogram, OperationStatistics
from ..oversight import RecentCounts


class Operation(BaseModel):
    """Counters of one operation since the connector was made. Times are seconds, summed over calls."""

    calls: int
    keys: int
    hits: int
    misses: dict[str, int] = Field(description="by reason: `absent`, `corrupt:<why>`, `bypassed`, or an error's class")
    errors: dict[str, int] = Field(description="by the error's class")
    retries: int
    bytes: int
    queue_seconds: float
    wire_seconds: float
    in_flight: int

    @classmethod
    def of(cls, counted: OperationStatistics) -> Operation:
        """The counters now."""
        return cls(
            calls=counted.calls,
            keys=counted.items,
            hits=counted.hits,
            misses=dict(counted.misses),
            errors=dict(counted.errors),
            retries=counted.retries,
            bytes=counted.bytes,
            queue_seconds=counted.queue_seconds,
            wire_seconds=counted.wire_seconds,
            in_flight=counted.in_flight,
        )


class Latency(BaseModel):
    """Quantiles of a histogram, in seconds. Those of calls include retries."""

    calls: int
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, seconds: Histogram) -> Latency | None:
        """The quantiles; None where nothing was counted."""
        p50, p90, p99 = (seconds.quantile(share) for share in (0.5, 0.9, 0.99))
        if p50 is None or p90 is None or p99 is None:
            return None
        return cls(calls=seconds.count, p50=p50, p90=p90, p99=p99)


class Recent(BaseModel):
    """What a connector's calls did in the last minute, or since somebody has looked: `seconds`."""

    seconds: float
    keys: int = Field(description="asked for by gets")
    hits: int
    misses: dict[str, int] = Field(description="of gets, by reason")
    dropped_puts: dict[str, int] = Field(description="keys whose put was not made or not stored, by reason")
    errors: dict[str, int] = Field(description="of all operations, by the error's class")
    get: Latency | None = Field(description="of all operations that bring chunks; null without a call")
    put: Latency | None = Field(description="of all operations that store chunks")
    lookup: Latency | None = Field(description="of `exists` and `batched_exists`")

    @classmethod
    def of(cls, recent: RecentCounts) -> Recent:
        """The counts as a document."""
        got, put = recent.total(GETS), recent.total(PUTS)
        errors = recent.total(recent.operations).errors
        return cls(
            seconds=recent.seconds,
            keys=got.items,
            hits=got.hits,
            misses={reason: count for reason, count in got.misses.items() if count},
            dropped_puts={reason: count for reason, count in put.misses.items() if count},
            errors={name: count for name, count in errors.items() if count},
            get=Latency.of(got.wire),
            put=Latency.of(put.wire),
            lookup=Latency.of(recent.total(("exists", "batched_exists")).wire),
        )


class StoreServer(BaseModel):
    """What a server of the store tells of itself. Counters are of all its clients. Null: it does not tell that."""

    product: str
    uptime: float
    memory: int | None
    memory_limit: int | None = Field(description="0: as much as there is")
    evicts: bool | None = Field(description="whether it makes room; otherwise it refuses puts when it is full")
    expired: int | None = Field(description="keys dropped because their time was over")
    evicted: int | None = Field(description="keys dropped to make room")
    connections: int | None
    saves: bool | None = Field(description="whether its last write to its disk succeeded")
    is_replica: bool | None

    @classmethod
    def of(cls, facts: ServerFacts) -> StoreServer:
        """The same without the name of the process."""
        return cls(**{name: getattr(facts, name) for name in cls.model_fields})


class Server(BaseModel):
    """One server of a store that has several, each with a circuit breaker of its own."""

    server: str = Field(description="its address, without credentials")
    breaker: Literal["closed", "open", "half_open"]
    failures: int = Field(description="attempts in a row that it has not answered")
    error: str = Field(description="the class of its last failure, or an empty string")
    detail: str = Field(description="the message of that failure")

    @classmethod
    def of(cls, state: ServerState) -> Server:
        """The server now."""
        return cls(
            server=state.server,
            breaker=state.breaker.value,
            failures=state.failures,
            error=state.error,
            detail=state.detail,
        )


class Connector(BaseModel):
    """One connector. `store` is its address without credentials."""

    name: str
    store: str
    kind: str = Field(description="the connector's class")
    state: Literal["open", "closed"]
    breaker: Literal["closed", "open", "half_open"] = Field(description="the circuit breaker; `closed`: calls are made")
    servers: list[Server] = Field(description="of a store that has several servers; `breaker` is then always `closed`")
    bypass: bool = Field(description="whether the store is left out: every get is a miss, every put is dropped")
    in_flight: int
    abandoned_calls: int = Field(description="calls of foreign code that were left behind, and have not ended")
    abandoned_bytes: int = Field(description="bytes that those calls hold")
    damaged_records: dict[str, int] = Field(
        description="records that did not verify, by `<reason>:<outcome>`; the outcome says whether it was removed"
    )
    removals_suspended: bool = Field(
        description="whether no damaged record is removed for now, since there were too many in a short time"
    )
    statistics: dict[str, Operation] = Field(description="by operation, such as `get` and `batched_put`")

    @classmethod
    def of(cls, connector: ManagedConnector) -> Connector:
        """The connector now."""
        return cls(
            name=connector.name,
            store=connector.store,
            kind=connector.class_name,
            state="closed" if connector.is_closed else "open",
            breaker=connector.breaker_state.value,
            servers=[Server.of(state) for state in connector.servers()],
            bypass=connector.bypass,
            in_flight=connector.in_flight,
            abandoned_calls=connector.abandoned_calls,
            abandoned_bytes=connector.abandoned_bytes,
            damaged_records={
                f"{reason}:{outcome}": count
                for (reason, outcome), count in connector.metrics.snapshot_of_removals().items()
            },
            removals_suspended=connector.removals_suspended,
            statistics={name: Operation.of(counted) for name, counted in connector.statistics().items()},
        )


class ConnectorCache(BaseModel):
    """The hot cache in front of one connector's store (`hot+<scheme>://`). Sizes are bytes."""

    connector: str = Field(description="the connector's name")
    enabled: bool = Field(description="whether it takes further chunks")
    chunks: int
    bytes: int
    hits: int
    misses: int
    evictions: int

    @classmethod
    def of(cls, connector: ManagedConnector, cache: Cache) -> ConnectorCache:
        """The cache now."""
        now, counts = cache.statistics(), connector.metrics.hot_cache
        return cls(
            connector=connector.name,
            enabled=cache.enabled,
            chunks=now.chunks,
            bytes=now.bytes,
            hits=counts.hits,
            misses=counts.misses,
            evictions=counts.evictions,
        )


class HotCache(BaseModel):
    """The arena with the chunks that are cached in it under LMCache's names, and the connectors' own hot caches.

    Sizes are bytes.
    """

    enabled: bool = Field(description="whether the arena's cache takes further chunks")
    chunks: int
    bytes: int
    arena_capacity: int
    arena_reserved: int = Field(description="bytes of the arena with cached chunks, and with chunks that are held")
    arena_largest_free: int
    arena_warm: int = Field(description="bytes of the arena whose pages were touched ahead of their use")
    evictions: int
    refusals: int = Field(description="allocations that found no room")
    waiters: int = Field(description="operations that wait for room now")
    connectors: list[ConnectorCache] = Field(description="the hot caches in front of stores")

    @classmethod
    def of(cls, manager: ConnectorManager) -> HotCache | None:
        """The memory and the caches now; None where there is no memory yet. One without a cache has an empty one."""
        if (memory := manager.made_backend) is None:
            return None
        now, cache = memory.statistics(), memory.hot_cache
        return cls(
            enabled=cache is not None and cache.enabled,
            chunks=now.cached_objects,
            bytes=now.cached_bytes,
            arena_capacity=now.capacity,
            arena_reserved=now.reserved,
            arena_largest_free=now.largest_free,
            arena_warm=now.warm,
            evictions=now.evictions,
            refusals=now.refusals,
            waiters=now.waiters,
            connectors=[ConnectorCache.of(connector, cache) for connector, cache in connector_caches(manager)],
        )


def connector_caches(manager: ConnectorManager) -> list[tuple[ManagedConnector, Cache]]:
    """The connectors that have a hot cache, and the caches."""
    return [
        (connector, cache)
        for connector in manager.known_connectors
        if (cache := connector.find_hot_cache()) is not None
    ]
