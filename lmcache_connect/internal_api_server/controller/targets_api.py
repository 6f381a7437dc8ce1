"""Targets: where the processes that use the same stores can be scraped, for Prometheus' discovery by HTTP."""

from __future__ import annotations

import re
from typing import Final

from fastapi import APIRouter
from pydantic import BaseModel, Field

from ...oversight import known_workers
from ..state import Manager

router = APIRouter(prefix="/controller", tags=["controller"])

_ADDRESS: Final = re.compile(r"http://(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]{1,253}):(?P<port>[0-9]{1,5})")
_EVERYWHERE: Final = frozenset({"0.0.0.0", "[::]"})  # noqa: S104 - such an address is replaced, not bound


class Target(BaseModel):
    """One process, as `http_sd_configs` of Prometheus wants it."""

    targets: list[str] = Field(description="one address, `host:port`")
    labels: dict[str, str] = Field(description="`worker`, the process's name, which no other process has had")


@router.get("/targets")
async def targets(manager: Manager) -> list[Target]:
    """The processes that serve an internal API over TCP and announce themselves in a store of this one.

    For several workers of one application: each listens on a free port, and Prometheus asks any of them for all. One
    that died disappears after three announcement intervals. A program that may write into the stores may announce
    anything there.
    """
    announcer = manager.announcer
    found = {each.worker: each for each in (await known_workers(manager)).announcements}
    if announcer is not None:
        found[announcer.worker] = announcer.describe()  # also where no store has taken an announcement yet
    made = []
    for worker, each in sorted(found.items()):
        if (address := _ADDRESS.fullmatch(each.api or "")) is not None:
            host = each.host if address["host"] in _EVERYWHERE else address["host"]
            place = f"{host}:{address['port']}"
            if _ADDRESS.fullmatch(f"http://{place}") is not None:  # the host is what somebody has announced, too
                made.append(Target(targets=[place], labels={"worker": worker}))
    return made
