"""The hot cache: chunks that stay in this process's memory."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field

from lmcache_connect.memory.local_cpu_backend import LocalCPUBackend

from ..body import Body
from ..state import Manager

router = APIRouter(prefix="/vllm/hot-cache", tags=["vllm"])


class HotCache(BaseModel):
    """The hot cache and the arena that it lies in. Sizes are bytes."""

    enabled: bool = Field(description="whether it takes further chunks")
    chunks: int
    bytes: int
    arena_capacity: int
    arena_reserved: int = Field(description="of the arena: cached chunks, and those that somebody holds")
    arena_largest_free: int
    evictions: int
    refusals: int = Field(description="allocations that found no room")
    waiters: int = Field(description="operations that wait for room now")

    @classmethod
    def of(cls, backend: LocalCPUBackend) -> HotCache:
        """The backend now."""
        now = backend.statistics()
        return cls(
            enabled=backend.hot_cache_enabled,
            chunks=now.cached_objects,
            bytes=now.cached_bytes,
            arena_capacity=now.capacity,
            arena_reserved=now.reserved,
            arena_largest_free=now.largest_free,
            evictions=now.evictions,
            refusals=now.refusals,
            waiters=now.waiters,
        )


class Switch(Body):
    """Whether the hot cache is to take chunks."""

    enabled: bool


class Cleared(BaseModel):
    """What was dropped; what somebody holds or pins stays."""

    dropped: int
    hot_cache: HotCache


@router.get("")
async def hot_cache(manager: Manager) -> HotCache:
    """What the hot cache holds now."""
    return HotCache.of(manager.local_cpu_backend)


@router.put("")
async def switch(new: Switch, manager: Manager) -> HotCache:
    """Switches the hot cache on or off. Off, it takes no further chunk, and serves those it has until they go."""
    manager.local_cpu_backend.hot_cache_enabled = new.enabled
    return HotCache.of(manager.local_cpu_backend)


@router.post("/clear")
def clear(manager: Manager) -> Cleared:
    """Drops every chunk that nobody holds or pins."""
    dropped = manager.local_cpu_backend.clear()
    return Cleared(dropped=dropped, hot_cache=HotCache.of(manager.local_cpu_backend))
