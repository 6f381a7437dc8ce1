"""Workers: every process that uses a store which can say so."""

from __future__ import annotations

import logging

from fastapi import APIRouter
from pydantic import BaseModel, Field

from ...contract import WorkerAnnouncement
from ...errors import LMCacheConnectError
from ...manager import ConnectorManager
from ...observability import event
from ..state import Manager

router = APIRouter(prefix="/controller", tags=["controller"])


class Worker(BaseModel):
    """One worker, as it announced itself."""

    announcement: WorkerAnnouncement
    is_this: bool = Field(description="whether it is the process that answers")


class Workers(BaseModel):
    """The workers whose announcement has not expired, by name. `unread` are connectors whose store did not answer."""

    workers: list[Worker]
    unread: list[str]


@router.get("/workers")
async def workers(manager: Manager) -> Workers:
    """The processes that use the stores of this one. One that died disappears after three announcement intervals."""
    found, unread = await announcements(manager)
    this = manager.announcer.worker if manager.announcer is not None else None
    return Workers(workers=[Worker(announcement=item, is_this=item.worker == this) for item in found], unread=unread)


async def announcements(manager: ConnectorManager) -> tuple[list[WorkerAnnouncement], list[str]]:
    """The newest announcement of every worker, by name, and the names of connectors that could not be asked."""
    newest: dict[str, WorkerAnnouncement] = {}
    unread: list[str] = []
    for connector in manager.connectors:
        if not connector.support_announcements():
            continue
        try:
            documents = await connector.announced()
        except LMCacheConnectError as error:
            event(logging.INFO, "announcements_unread", store=connector.store, error=str(error))
            unread.append(connector.name)
            continue
        for document in documents:
            item = WorkerAnnouncement.decode(document)
            if item is not None and (known := newest.get(item.worker, item)).announced <= item.announced:
                newest[item.worker] = item
                del known
    return [newest[name] for name in sorted(newest)], unread
