"""Liveness and readiness, for orchestrators and load balancers."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel

from ...oversight import Health, StoreHealth
from ..state import State

router = APIRouter(tags=["common"])


class Liveness(BaseModel):
    """The process serves requests."""

    status: Literal["alive"] = "alive"


class StoreReadiness(BaseModel):
    """One connector's store. `seconds` is the ping's round trip, `error` the class of its failure."""

    connector: str
    health: Health
    seconds: float | None = None
    error: str | None = None

    @classmethod
    def of(cls, found: StoreHealth) -> StoreReadiness:
        """Leaves out the failure's message, because this route needs no token."""
        return cls(connector=found.connector, health=found.health, seconds=found.seconds, error=found.error)


class Readiness(BaseModel):
    """Whether every store answers. Stores that were closed or bypassed do not count."""

    status: Literal["ready", "not_ready"]
    stores: list[StoreReadiness]


@router.get("/health/live")
async def liveness() -> Liveness:
    """Answers as long as the process serves requests. Asks no store."""
    return Liveness()


@router.get("/health/ready", responses={503: {"model": Readiness}})
async def readiness(state: State, response: Response) -> Readiness:
    """Pings every store at once, with the deadline `ready_timeout`. Answers 503 where one does not answer.

    An answer may be half a second old, so that stores are pinged at most twice a second.
    """
    found = await state.health.check(state.config.ready_timeout)
    is_ready = all(store.is_usable for store in found)
    if not is_ready:
        response.status_code = 503
    return Readiness(status="ready" if is_ready else "not_ready", stores=[StoreReadiness.of(store) for store in found])
