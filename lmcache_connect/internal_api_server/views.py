"""What several routes answer with: connectors, their operations, the hot cache."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from ..managed import ManagedConnector
from ..memory import ChunkMemory
from ..observability import OperationStatistics


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


class Connector(BaseModel):
    """One connector. `store` is its address without credentials."""

    name: str
    store: str
    kind: str = Field(description="the connector's class")
    state: Literal["open", "closed"]
    breaker: Literal["closed", "open", "half_open"] = Field(description="the circuit breaker; `closed`: calls are made")
    bypass: bool = Field(description="whether the store is left out: every get is a miss, every put is dropped")
    in_flight: int
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
            bypass=connector.bypass,
            in_flight=connector.in_flight,
            damaged_records={
                f"{reason}:{outcome}": count
                for (reason, outcome), count in connector.metrics.snapshot_of_removals().items()
            },
            removals_suspended=connector.removals_suspended,
            statistics={name: Operation.of(counted) for name, counted in connector.statistics().items()},
        )


class HotCache(BaseModel):
    """The hot cache and the arena that it lies in. Sizes are bytes."""

    enabled: bool = Field(description="whether it takes further chunks")
    chunks: int
    bytes: int
    arena_capacity: int
    arena_reserved: int = Field(description="bytes of the arena with cached chunks, and with chunks that are held")
    arena_largest_free: int
    evictions: int
    refusals: int = Field(description="allocations that found no room")
    waiters: int = Field(description="operations that wait for room now")

    @classmethod
    def of(cls, memory: ChunkMemory) -> HotCache:
        """The memory now. Where it has no hot cache, that is off and empty."""
        now, cache = memory.statistics(), memory.hot_cache
        return cls(
            enabled=cache is not None and cache.enabled,
            chunks=now.cached_objects,
            bytes=now.cached_bytes,
            arena_capacity=now.capacity,
            arena_reserved=now.reserved,
            arena_largest_free=now.largest_free,
            evictions=now.evictions,
            refusals=now.refusals,
            waiters=now.waiters,
        )
