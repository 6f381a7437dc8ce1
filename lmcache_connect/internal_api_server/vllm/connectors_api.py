"""Connectors: what each is doing, and the switches that an operator has."""

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
    """How calls under way end. `grace`: seconds that they have to finish; null: the setting `close_grace`."""

    grace: Grace = None


class Bypass(Body):
    """Whether the store is to be left out."""

    enabled: bool


@router.get("")
async def connectors(manager: Manager) -> Connectors:
    """Every connector, and those that were closed and may be recreated."""
    return Connectors(connectors=[Connector.of(connector) for connector in manager.known_connectors])


@router.get("/{name}", responses=problems(404))
async def connector(name: ConnectorName, manager: Manager) -> Connector:
    """One connector."""
    return Connector.of(manager.connector(name))


@router.post("/{name}/close", responses=problems(404, 502))
async def close(name: ConnectorName, manager: Manager, ending: Ending | None = None) -> Connector:
    """Closes a connector: calls under way may finish, later ones fail until it is recreated. Closing twice is fine."""
    found = manager.connector(name)
    await found.close(ending.grace if ending is not None else None)
    return Connector.of(found)


@router.post("/{name}/recreate", responses=problems(404, 409, 502))
async def recreate(name: ConnectorName, manager: Manager, ending: Ending | None = None) -> Connector:
    """Makes a connector anew, from the same URL: new connections, the breaker closed. The application notices nothing.

    One that was closed is open again.
    """
    found = manager.connector(name)
    await manager.recreate(found, ending.grace if ending is not None else None)
    return Connector.of(found)


@router.put("/{name}/bypass", responses=problems(404))
async def bypass(name: ConnectorName, new: Bypass, manager: Manager) -> Connector:
    """Leaves the store out, or takes it back in: with a bypass every get is a miss and every put is dropped."""
    found = manager.connector(name)
    found.bypass = new.enabled
    return Connector.of(found)
