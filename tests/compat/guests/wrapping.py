"""Wraps a connector that LMCache's own function makes."""

from __future__ import annotations

from typing import Any

from lmcache.v1.storage_backend.connector import CreateConnector
from lmcache.v1.storage_backend.connector.base_connector import RemoteConnector


class Counting(RemoteConnector):
    def __init__(self, loop: Any, local_cpu_backend: Any, config: Any) -> None:
        super().__init__(config, local_cpu_backend.metadata)
        self.inner = CreateConnector(
            config.extra_config["inner"], loop, local_cpu_backend, config, local_cpu_backend.metadata
        )
        self.calls: list[str] = []

    async def exists(self, key: Any) -> bool:
        self.calls.append("exists")
        return await self.inner.exists(key)

    async def get(self, key: Any) -> Any:
        self.calls.append("get")
        return await self.inner.get(key)

    async def put(self, key: Any, memory_obj: Any) -> None:
        self.calls.append("put")
        await self.inner.put(key, memory_obj)

    async def list(self) -> Any:
        return await self.inner.list()

    async def close(self) -> None:
        await self.inner.close()
