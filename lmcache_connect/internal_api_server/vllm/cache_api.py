"""Clearing caches by prefix."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter
from pydantic import BaseModel, Field

from ...oversight import clear
from ..body import Body
from ..problem import ProblemError, problems
from ..state import Manager
from ..views import connector_caches

router = APIRouter(prefix="/vllm/cache", tags=["vllm"])

HOT_CACHE: Final = "hot-cache"

MOST_KEYS: Final = 1_000_000


class ClearRequest(Body):
    """Which keys to remove: those that start with `prefix`. With `dry_run`, they are only counted.

    An empty prefix means every key, and needs `everything`.
    """

    prefix: Annotated[str, Field(max_length=4096)]
    dry_run: bool = True
    everything: bool = False
    locations: Annotated[list[Annotated[str, Field(max_length=256)]], Field(max_length=64)] | None = Field(
        default=None, description="names of connectors, and `hot-cache` for all hot caches; null: all of them"
    )
    limit: Annotated[int, Field(ge=1, le=MOST_KEYS)] = Field(default=100_000, description="the most keys per connector")


class LocationCleared(BaseModel):
    """What was done in one place.

    `outdated` names held what an earlier release stored under the prefix. `left_out` names under the prefix are none
    of our keys' and stay. `complete` is false where there are any, where the limit was reached, or where a key could
    not be removed.
    """

    location: str
    matched: int
    removed: int
    failed: int
    outdated: int = 0
    left_out: int = 0
    complete: bool
    error: str | None = None


class Cleared(BaseModel):
    """What was found, and was removed unless it was a dry run."""

    dry_run: bool
    locations: list[LocationCleared]


@router.post("/clear", responses=problems(404, 409, 502))
async def clear_cache(request: ClearRequest, manager: Manager) -> Cleared:
    """Removes the keys under a prefix from the stores and the hot caches. With `dry_run`, counts them.

    It ends at the server's `request_timeout` at the latest: call it again to remove the rest.
    """
    if not request.prefix and not request.everything:
        raise ProblemError(
            422, "empty_prefix", "an empty prefix would clear everything; set everything=true if that is what you want"
        )
    wanted = request.locations
    if wanted is None:
        wanted = [*(connector.name for connector in manager.connectors), HOT_CACHE]
    connectors = [manager.connector(name) for name in dict.fromkeys(wanted) if name != HOT_CACHE]
    done: list[LocationCleared] = []
    for connector in connectors:
        found = await clear(connector, request.prefix, dry_run=request.dry_run, limit=request.limit)
        done.append(
            LocationCleared(
                location=connector.name,
                matched=found.matched,
                removed=found.removed,
                failed=found.failed,
                outdated=found.outdated,
                left_out=found.left_out,
                complete=found.is_complete and not found.failed,
                error=found.error,
            )
        )
    if HOT_CACHE in wanted:
        memory = manager.made_backend
        caches = [cache for _, cache in connector_caches(manager)]
        if memory is not None and memory.hot_cache is not None:
            caches.append(memory.hot_cache)
        matched = removed = 0
        for cache in caches:
            names = cache.keys()
            matched += sum(name.startswith(request.prefix) for name in names)
            removed += 0 if request.dry_run else cache.clear(request.prefix)
        complete = request.dry_run or removed >= matched
        done.append(LocationCleared(location=HOT_CACHE, matched=matched, removed=removed, failed=0, complete=complete))
    return Cleared(dry_run=request.dry_run, locations=done)
