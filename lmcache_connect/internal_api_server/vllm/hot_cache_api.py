"""The hot cache: chunks that stay in this process's memory."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from ..body import Body
from ..state import Manager
from ..views import HotCache

router = APIRouter(prefix="/vllm/hot-cache", tags=["vllm"])


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
