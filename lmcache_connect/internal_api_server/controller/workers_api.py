"""Workers: the processes that use the stores of this one."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field

from ...contract import WorkerAnnouncement
from ...oversight import known_workers
from ..state import Manager

router = APIRouter(prefix="/controller", tags=["controller"])


class Worker(BaseModel):
    """One worker, as it announced itself."""

    announcement: WorkerAnnouncement
    is_this: bool = Field(description="whether it is the process that answers")


class Workers(BaseModel):
    """The workers whose announcement has not expired, by name. `unread` names connectors whose store did not answer."""

    workers: list[Worker]
    unread: list[str]


@router.get("/workers")
async def workers(manager: Manager) -> Workers:
    """The processes that use the stores of this one. One that died disappears after three announcement intervals."""
    found, unread = await known_workers(manager)
    this = manager.announcer.worker if manager.announcer is not None else None
    return Workers(workers=[Worker(announcement=item, is_this=item.worker == this) for item in found], unread=unread)
