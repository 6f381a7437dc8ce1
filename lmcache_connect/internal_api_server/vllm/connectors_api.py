"""Connectors: what each is doing, and an operator's switches for it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from ..body import Body
from ..problem import problems
from ..state import Manager
from ..views import Connector

router = APIRouter(prefix="/vllm/connectors", tags=["vllm"])

ConnectorName = Annotated[str, Path(max_length=256, description="such as `redis-1`, as the list gives it")]
Grace = Annotated[float | None, Field(ge=0, le=60, allow_inf_nan=False)]


class Connectors(BaseModel):
    """The connectors of this process's manager, in the order in which they were made."""

    connectors: list[Connector]


class Ending(Body):
    """How calls under way end. `grace`: seconds that they have to finish. Null takes the setting `close_grace`."""

    grace: Grace = None


class Bypass(Body):
    """Whether the store is left out from now on."""

    enabled: bool


@router.get("")
async def connectors(manager: Manager) -> Connectors:
    """The connectors, including those that were closed and may be recreated."""
    return Connectors(connectors=[Connector.of(connector) for connector in manager.known_connectors])


@router.get("/{name}", responses=problems(404))
async def connector(name: ConnectorName, manager: Manager) -> Connector:
    """One connector."""
    return Connector.of(manager.connector(name))


@router.post("/{name}/close", responses=problems(404, 502))
async def close(name: ConnectorName, manager: Manager, ending: Ending | None = None) -> Connector:
    """Closes a connector. Calls under way may finish; later ones fail until it is recreated. Idempotent."""
    found = manager.connector(name)
    await found.close(ending.grace if ending is not None else None)
    return Connector.of(found)


@router.post("/{name}/recreate", responses=problems(404, 409, 502))
async def recreate(name: ConnectorName, manager: Manager, ending: Ending | None = None) -> Connector:
    """Recreates a connector from the same URL, with new connections and a closed circuit breaker.

    The application keeps its connector, which is open afterwards, also where it was closed.
    """
    found = manager.connector(name)
    await manager.recreate(found, ending.grace if ending is not None else None)
    return Connector.of(found)


@router.put("/{name}/bypass", responses=problems(404))
async def bypass(name: ConnectorName, new: Bypass, manager: Manager) -> Connector:
    """Leaves the store out, or uses it again. With a bypass every get is a miss and every put is dropped."""
    found = manager.connector(name)
    found.bypass = new.enabled
    return Connector.of(found)
