"""The status page, and the document that its script shows."""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import cache

from fastapi import APIRouter
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from ..._version import __version__
from ...managed import ManagedConnector
from ...oversight import FleetTraffic, Health, StoreHealth, Trouble
from ..state import State
from ..status_page import StatusPage
from ..views import Connector, HotCache, Latency, Recent, StoreServer
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
    prefix: str | None = Field(description="what the names of all keys begin with in the store; null: the default")
    health: Health
    ping_seconds: float | None
    error: str | None
    detail: str | None
    advice: str | None = Field(description="what to do about the error; null without an error")
    trouble: list[StoreTrouble] = Field(description="why it is degraded, or what fails besides a ping")
    recent: Recent
    servers: list[StoreServer] = Field(description="those that tell of themselves: Redis and Valkey do")
    started: float | None = Field(description="when the youngest of them was started; null where none tells")
    others: Others | None = Field(description="other workers on this store; null where none is known")


class Status(BaseModel):
    """Everything at a glance. Times are seconds since 1970. Counters only grow: take differences for rates."""

    version: str
    worker: str | None = Field(description="the name under which it announces itself to others")
    started: float
    now: float
    stores: list[StoreStatus]
    loop_lag: Latency | None = Field(description="how late the connectors' event loop was since somebody has looked")
    token_needed: bool = Field(description="whether the switches of this server need its token")
    hot_cache: HotCache | None = Field(description="null while the process has no memory for chunks yet")


@router.get("/status")
async def status(state: State) -> Status:
    """The stores, their health, their counters, the arena, and what other workers announce.

    Pings the stores at most twice a second, and reads the announcements every two seconds.
    """
    manager = state.manager
    health = {found.connector: found for found in await state.health.check(state.config.ready_timeout)}
    stores = []
    for connector in manager.known_connectors:
        # Without an outcome, it was made after the last check.
        found = health.get(connector.name, StoreHealth(connector.name, "unknown"))
        stores.append(
            StoreStatus(
                connector=Connector.of(connector),
                prefix=_prefix(connector),
                health=found.health,
                ping_seconds=found.seconds,
                error=found.error,
                detail=found.detail,
                advice=found.advice,
                trouble=[StoreTrouble.of(trouble) for trouble in found.trouble],
                recent=Recent.of(found.recent),
                servers=[StoreServer.of(facts) for facts in found.servers],
                started=found.started,
                others=Others.of(found.others) if found.others is not None else None,
            )
        )
    return Status(
        version=__version__,
        worker=manager.announcer.worker if manager.announcer is not None else None,
        started=state.started,
        now=time.time(),
        stores=stores,
        loop_lag=Latency.of(state.health.lag.seconds),
        token_needed=state.config.token is not None,
        hot_cache=HotCache.of(manager),
    )


def _prefix(connector: ManagedConnector) -> str | None:
    found = connector.context.remote_url.query.get("prefix")
    return found.get_secret_value() if found is not None else None


@router.get("/", include_in_schema=False)
async def page() -> HTMLResponse:
    """The status page. It holds no data itself: its script asks for them."""
    found = _page()
    return HTMLResponse(found.html, headers={"content-security-policy": found.content_security_policy})


@cache
def _page() -> StatusPage:
    return StatusPage.load()
