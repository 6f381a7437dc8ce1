"""Key statistics, over all workers."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import APIRouter
from pydantic import BaseModel, Field

from ...contract import AnnouncedConnector
from ...managed import GETS, PUTS
from ...oversight import known_workers
from ..state import Manager

router = APIRouter(prefix="/controller", tags=["controller"])

_LOOKUPS = frozenset({"exists", "batched_exists"})


class KeyCounts(BaseModel):
    """Keys that were put, got and looked up since the workers started. Bytes are those of chunks."""

    put: int = 0
    put_bytes: int = 0
    get_hits: int = 0
    get_misses: int = 0
    get_bytes: int = 0
    lookup_hits: int = 0
    lookup_misses: int = 0

    @classmethod
    def of(cls, connectors: Iterable[AnnouncedConnector]) -> KeyCounts:
        """The sum over connectors."""
        total = cls()
        for connector in connectors:
            for name, counted in connector.statistics.items():
                if name in PUTS:
                    total.put += counted.keys
                    total.put_bytes += counted.bytes
                elif name in GETS:
                    total.get_hits += counted.hits
                    total.get_misses += counted.misses
                    total.get_bytes += counted.bytes
                elif name in _LOOKUPS:
                    total.lookup_hits += counted.hits
                    total.lookup_misses += counted.misses
        return total


class WorkerKeys(BaseModel):
    """One worker's counts, and the keys in its hot cache."""

    worker: str
    cached_keys: int
    cached_bytes: int
    counts: KeyCounts


class StoreKeys(BaseModel):
    """One store's counts, over all workers that use it."""

    store: str
    workers: int
    counts: KeyCounts


class KeyStats(BaseModel):
    """Counts of keys: of all workers, by worker and by store."""

    worker_count: int
    cached_keys: int = Field(description="in all hot caches")
    counts: KeyCounts
    workers: list[WorkerKeys]
    stores: list[StoreKeys]


@router.get("/key-stats")
async def key_stats(manager: Manager) -> KeyStats:
    """Counts of keys, as the workers last announced them: at most an announcement interval ago."""
    found, _ = await known_workers(manager)
    by_store: dict[str, list[tuple[str, AnnouncedConnector]]] = {}
    for item in found:
        for connector in item.connectors:
            by_store.setdefault(connector.store, []).append((item.worker, connector))
    return KeyStats(
        worker_count=len(found),
        cached_keys=sum(item.arena.cached_keys for item in found),
        counts=KeyCounts.of(connector for item in found for connector in item.connectors),
        workers=[
            WorkerKeys(
                worker=item.worker,
                cached_keys=item.arena.cached_keys,
                cached_bytes=item.arena.cached_bytes,
                counts=KeyCounts.of(item.connectors),
            )
            for item in found
        ],
        stores=[
            StoreKeys(
                store=store,
                workers=len({worker for worker, _ in pairs}),
                counts=KeyCounts.of(connector for _, connector in pairs),
            )
            for store, pairs in sorted(by_store.items())
        ],
    )
