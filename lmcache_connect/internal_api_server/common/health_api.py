"""Liveness and readiness, for orchestrators and load balancers."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from ...oversight import Health, StoreHealth, Trouble
from ..state import State

router = APIRouter(tags=["common"])


class Liveness(BaseModel):
    """The process serves requests."""

    status: Literal["alive"] = "alive"


class Failures(BaseModel):
    """What fails on a store: `failures` of `calls` of one kind of operation, with one class of error."""

    operation: str
    error: str
    since: float | None = Field(description="seconds since 1970; null where that is not known")
    failures: int
    calls: int
    advice: str

    @classmethod
    def of(cls, trouble: Trouble) -> Failures:
        """Leaves out the message, because this route needs no token."""
        return cls(
            operation=trouble.operation,
            error=trouble.error,
            since=trouble.since,
            failures=trouble.failures,
            calls=trouble.calls,
            advice=trouble.advice,
        )


class StoreReadiness(BaseModel):
    """One connector's store. `seconds` is the ping's round trip, `error` the class of its failure, or of the first one.

    `trouble` says which operations fail.
    """

    connector: str
    health: Health
    seconds: float | None = None
    error: str | None = None
    advice: str | None = Field(default=None, description="what to do about the error")
    trouble: list[Failures] = []

    @classmethod
    def of(cls, found: StoreHealth) -> StoreReadiness:
        """Leaves out the failure's message, because this route needs no token."""
        return cls(
            connector=found.connector,
            health=found.health,
            seconds=found.seconds,
            error=found.error,
            advice=found.advice,
            trouble=[Failures.of(trouble) for trouble in found.trouble],
        )


class Readiness(BaseModel):
    """Whether every store answers, and whether operations succeed. Stores that were closed or bypassed do not count."""

    status: Literal["ready", "degraded", "not_ready"]
    stores: list[StoreReadiness]


@router.get("/health/live")
async def liveness() -> Liveness:
    """Answers as long as the process serves requests. Asks no store."""
    return Liveness()


@router.get("/health/ready", responses={503: {"model": Readiness}})
async def readiness(state: State, response: Response) -> Readiness:
    """Pings every store at once, with the deadline `ready_timeout`. Answers 503 where one does not answer.

    Where all answer, but operations fail on one, the status is `degraded` and the answer 200: an engine goes on without
    its cache, and stores are often shared, so that 503 would take every process out of service at once. An answer may
    be half a second old, so that stores are pinged at most twice a second.
    """
    found = await state.health.check(state.config.ready_timeout)
    is_ready = all(store.is_usable for store in found)
    if not is_ready:
        response.status_code = 503
    is_degraded = any(store.health == "degraded" for store in found)
    return Readiness(
        status="not_ready" if not is_ready else "degraded" if is_degraded else "ready",
        stores=[StoreReadiness.of(store) for store in found],
    )
