"""The status page, and the document that its script shows."""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import cache

from fastapi import APIRouter
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from ..._version import __version__
from ...oversight import FleetTraffic, Health, Trouble
from ..state import State
from ..status_page import StatusPage
from ..views import Connector, HotCache
from .health_api import Failures

router = APIRouter(tags=["common"])


class StoreTrouble(Failures):
    """What fails on a store, with the message of the last failure."""

    detail: str

    @classmethod
    def of(cls, trouble: Trouble) -> StoreTrouble:
        """All of it."""
        return cls(**Failures.of(trouble).model_dump(), detail=trouble.detail)


class Others(BaseModel):
    """What other workers do on a store, as they announce it. Counters begin with each worker.

    Rates are bytes per second of the last interval between two announcements.
    """

    workers: int
    announced: float = Field(description="when the newest announcement was made")
    hits: int
    misses: int
    errors: int
    get_rate: float | None = Field(description="null until a worker has announced itself twice")
    put_rate: float | None
    failing_share: float | None = Field(description="of the calls of the last interval; null where there was none")

    @classmethod
    def of(cls, traffic: FleetTraffic) -> Others:
        """The same as a document."""
        return cls(**asdict(traffic))


class StoreStatus(BaseModel):
    """One connector and its store. `error` and `detail` are of the last ping, or of the first trouble."""

    connector: Connector
    health: Health
    ping_seconds: float | None
    error: str | None
    detail: str | None
    trouble: list[StoreTrouble] = Field(description="why it is degraded, or what fails besides a ping")
    others: Others | None = Field(description="other workers on this store; null where none is known")


class Status(BaseModel):
    """Everything at a glance. Times are seconds since 1970. Counters only grow: take differences for rates."""

    version: str
    worker: str | None = Field(description="the name under which it announces itself to others")
    started: float
    now: float
    stores: list[StoreStatus]
    hot_cache: HotCache | None = Field(description="null while the process has no memory for chunks yet")


@router.get("/status")
async def status(state: State) -> Status:
    """The stores, their health, their counters, the arena, and what other workers announce.

    Pings the stores at most twice a second, and reads the announcements every two seconds.
    """
    manager = state.manager
    health = {found.connector: found for found in await state.health.check(state.config.ready_timeout)}
    fleet = await state.fleet.look(state.config.ready_timeout)
    stores = []
    for connector in manager.known_connectors:
        found = health.get(connector.name)  # None: it was made after the last ping
        stores.append(
            StoreStatus(
                connector=Connector.of(connector),
                health=found.health if found is not None else "unknown",
                ping_seconds=found.seconds if found is not None else None,
                error=found.error if found is not None else None,
                detail=found.detail if found is not None else None,
                trouble=[StoreTrouble.of(trouble) for trouble in found.trouble] if found is not None else [],
                others=Others.of(fleet[connector.name]) if connector.name in fleet else None,
            )
        )
    return Status(
        version=__version__,
        worker=manager.announcer.worker if manager.announcer is not None else None,
        started=state.started,
        now=time.time(),
        stores=stores,
        hot_cache=HotCache.of(manager),
    )


@router.get("/", include_in_schema=False)
async def page() -> HTMLResponse:
    """The status page. It holds no data itself: its script asks for them."""
    found = _page()
    return HTMLResponse(found.html, headers={"content-security-policy": found.content_security_policy})


@cache
def _page() -> StatusPage:
    return StatusPage.load()
