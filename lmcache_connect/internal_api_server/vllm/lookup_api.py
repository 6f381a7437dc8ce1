"""Look-ups: how much of a prompt's cache a store holds."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from ...contract import prefix_length
from ...errors import UnknownConnectorError
from ...managed import ManagedConnector
from ...manager import ConnectorManager
from ..body import Body
from ..problem import ProblemError, problems
from ..state import Manager

router = APIRouter(prefix="/vllm", tags=["vllm"])

MOST_KEYS: Final = 10_000

Key = Annotated[str, Field(min_length=1, max_length=4096)]
ShortKey = Annotated[str, Field(min_length=1, max_length=1024)]


class LookupRequest(Body):
    """Keys in the order of the prompt. `connector` may be left out where there is only one."""

    keys: Annotated[list[Key], Field(min_length=1, max_length=MOST_KEYS)]
    connector: Annotated[str, Field(max_length=256)] | None = None


class Lookup(BaseModel):
    """Which keys the store holds. `found` has one answer per key, in order."""

    connector: str
    keys: int
    hit_prefix: int = Field(description="how many of the first keys are there without a gap")
    found: list[bool]


@router.get("/lookup", responses=problems(404, 409, 502))
async def lookup(
    manager: Manager,
    key: Annotated[list[ShortKey], Query(min_length=1, max_length=16)],
    connector: Annotated[str | None, Query(max_length=256)] = None,
) -> Lookup:
    """Looks up a few keys in the store. Changes nothing."""
    return await _lookup(manager, connector, key)


@router.post("/lookup", responses=problems(404, 409, 502))
async def lookup_many(request: LookupRequest, manager: Manager) -> Lookup:
    """Looks up many keys in the store. Changes nothing."""
    return await _lookup(manager, request.connector, request.keys)


async def _lookup(manager: ConnectorManager, name: str | None, keys: list[str]) -> Lookup:
    connector = _connector(manager, name)
    found = await connector.batched_exists(keys)
    return Lookup(connector=connector.name, keys=len(keys), hit_prefix=prefix_length(found), found=found)


def _connector(manager: ConnectorManager, name: str | None) -> ManagedConnector:
    """The connector of this name. Without a name: the open connector, where there is only one."""
    if name is not None:
        return manager.connector(name)
    live = manager.connectors
    if len(live) == 1:
        return live[0]
    if not live:
        raise UnknownConnectorError("", ())
    names = ", ".join(connector.name for connector in live)
    raise ProblemError(409, "ambiguous_connector", f"there are several connectors: name one of {names}")
