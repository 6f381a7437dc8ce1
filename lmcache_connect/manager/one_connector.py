"""`create_connector`: one connector for programs that need no more, with a manager of its own."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

from ..managed import ManagedConnector
from ..memory import ChunkMemory
from ..metadata import CacheMetadata
from ..url import RemoteURL
from .manager import ConnectorManager


def create_connector(
    url: str | RemoteURL,
    loop: asyncio.AbstractEventLoop | None = None,
    local_cpu_backend: ChunkMemory | None = None,
    config: Any = None,
    metadata: CacheMetadata | None = None,
    plugin_name: str | None = None,
) -> ManagedConnector:
    """One connector with a manager of its own. Takes the arguments of `ConnectorManager`.

    Closing the connector closes the manager, with the memory and the event loop that the manager made.

    Raises:
        LMCacheConnectError: as `ConnectorManager` and its `create_connector` raise it.
    """
    with ExitStack() as on_failure:
        manager = ConnectorManager(url, loop, local_cpu_backend, config, metadata, plugin_name)
        on_failure.push(manager)  # not entered, which is refused on the manager's loop
        connector = manager.create_connector()
        on_failure.pop_all()
    connector.then_close(manager.close)
    return connector


def CreateConnector(
    url: str,
    loop: asyncio.AbstractEventLoop,
    local_cpu_backend: ChunkMemory | None,
    config: Any = None,
    metadata: CacheMetadata | None = None,
    plugin_name: str | None = None,
) -> ManagedConnector:
    """`create_connector` with LMCache's name and signature."""
    return create_connector(url, loop, local_cpu_backend, config, metadata, plugin_name)
