"""Hot caches: chunks that stay in this process's memory."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from ..body import Body
from ..problem import ProblemError, problems
from ..state import Manager
from ..views import HotCache, connector_caches

router = APIRouter(prefix="/vllm/hot-cache", tags=["vllm"])


class Switch(Body):
    """Whether the hot caches take chunks from now on."""

    enabled: bool


class Cleared(BaseModel):
    """How many chunks were dropped. Those that are pinned stay."""

    dropped: int
    hot_cache: HotCache | None


@router.get("")
async def hot_cache(manager: Manager) -> HotCache | None:
    """What the hot caches hold now; null while the process has no memory for chunks yet."""
    return HotCache.of(manager)


@router.put("", responses=problems(409))
async def switch(new: Switch, manager: Manager) -> HotCache | None:
    """Switches the hot caches on or off. Off, they take no further chunks, and serve those that they have."""
    own = manager.local_cpu_backend.hot_cache
    caches = [cache for _, cache in connector_caches(manager)] + ([own] if own is not None else [])
    if not caches:
        raise ProblemError(409, "no_hot_cache", "chunks lie in memory that an engine owns, which has no hot cache here")
    for cache in caches:
        cache.enabled = new.enabled
    return HotCache.of(manager)


@router.post("/clear")
def clear(manager: Manager) -> Cleared:
    """Drops every chunk that is not pinned from the hot caches. The stores keep theirs."""
    memory = manager.made_backend
    dropped = sum(cache.clear() for _, cache in connector_caches(manager))
    if memory is not None and memory.hot_cache is not None:
        dropped += memory.hot_cache.clear()
    return Cleared(dropped=dropped, hot_cache=HotCache.of(manager))
