"""`open_store`: a connector for a command that looks at a store, or moves what is in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ...config import ConnectorConfig
from ...managed import ManagedConnector
from ...manager import ConnectorManager
from ...memory import ChunkMemory
from ...url import RemoteURL


def command_config(**settings: Any) -> ConnectorConfig:
    """The settings of such a command: a failure is an error, and no damaged record is removed by looking at it."""
    return ConnectorConfig.load(errors="raise", remove_damaged=False, announce_interval=0, **settings)


@asynccontextmanager
async def open_store(
    url: str, *, config: ConnectorConfig | None = None, memory: ChunkMemory | None = None
) -> AsyncIterator[ManagedConnector]:
    """The store at `url`, until the block ends. Its `?errors=` is left out.

    Raises:
        LMCacheConnectError: the URL is wrong, or what answers for it cannot be loaded.
    """
    remote = RemoteURL.parse(url)
    if "errors" in remote.query:
        kept = {name: value for name, value in remote.query.items() if name != "errors"}
        remote = remote.model_copy(update={"query": kept})
    settings = command_config() if config is None else config
    async with ConnectorManager(remote, local_cpu_backend=memory, config=settings) as manager:
        yield await manager.open_connector()
