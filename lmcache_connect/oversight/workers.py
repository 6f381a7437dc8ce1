"""Workers: the processes that use the same stores as a manager, as they announce themselves there."""

from __future__ import annotations

import logging
from typing import NamedTuple

from ..contract import WorkerAnnouncement
from ..errors import LMCacheConnectError
from ..manager import ConnectorManager
from ..observability import event


class KnownWorkers(NamedTuple):
    """The newest announcement of every worker, by name, and the connectors whose store did not answer."""

    announcements: list[WorkerAnnouncement]
    unread: list[str]


async def known_workers(manager: ConnectorManager) -> KnownWorkers:
    """Asks every store of the manager that keeps announcements. A store that fails is among the `unread`."""
    newest: dict[str, WorkerAnnouncement] = {}
    unread: list[str] = []
    for connector in manager.connectors:
        if not connector.support_announcements():
            continue
        try:
            documents = await connector.announced()
        except LMCacheConnectError as error:
            event(logging.DEBUG, "announcements_unread", store=connector.store, error=str(error))
            unread.append(connector.name)
            continue
        for document in documents:
            found = WorkerAnnouncement.decode(document)
            if found is None:
                continue
            known = newest.get(found.worker)
            if known is None or known.announced <= found.announced:
                newest[found.worker] = found
    return KnownWorkers([newest[name] for name in sorted(newest)], unread)
