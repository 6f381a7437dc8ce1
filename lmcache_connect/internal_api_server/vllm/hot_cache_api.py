"""The hot cache: chunks that stay in this process's memory."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from ..body import Body
from ..problem import ProblemError, problems
from ..state import Manager
from ..views import HotCache

router = APIRouter(prefix="/vllm/hot-cache", tags=["vllm"])


class Switch(Body):
    """Whether the hot cache takes chunks from now on."""

    enabled: bool


class Cleared(BaseModel):
    """How many chunks were dropped. Those that somebody holds or pins stay."""

    dropped: int
    hot_cache: HotCache | None


@router.get("")
async def hot_cache(manager: Manager) -> HotCache | None:
    """What the hot cache holds now; null while the process has no memory for chunks yet."""
    memory = manager.made_backend
    return HotCache.of(memory) if memory is not None else None


@router.put("", responses=problems(409))
async def switch(new: Switch, manager: Manager) -> HotCache:
    """Switches the hot cache on or off. Off, it takes no further chunks, and serves those that it has."""
    memory = manager.local_cpu_backend
    if memory.hot_cache is None:
        raise ProblemError(409, "no_hot_cache", "chunks lie in memory that an engine owns, which has no hot cache here")
    memory.hot_cache.enabled = new.enabled
    return HotCache.of(memory)


@router.post("/clear")
def clear(manager: Manager) -> Cleared:
    """Drops every chunk that nobody holds or pins. Does nothing where there is no hot cache."""
    memory = manager.made_backend
    if memory is None:
        return Cleared(dropped=0, hot_cache=None)
    dropped = memory.hot_cache.clear() if memory.hot_cache is not None else 0
    return Cleared(dropped=dropped, hot_cache=HotCache.of(memory))
