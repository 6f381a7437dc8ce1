"""Derives from nothing where LMCache is absent, as it thinks."""

from __future__ import annotations

import asyncio
from typing import Any

try:
    from lmcache.v1.no_such_module import RemoteConnector  # type: ignore[import-not-found, unused-ignore]
except ImportError:
    RemoteConnector = object

from lmcache.utils import CacheEngineKey, LayerCacheEngineKey


class Duck(RemoteConnector):  # type: ignore[misc, unused-ignore]
    def __init__(self, loop: Any, local_cpu_backend: Any, config: Any) -> None:
        self.backend = local_cpu_backend
        self.stored: dict[Any, Any] = {}
        self.lock = asyncio.Lock()

    async def exists(self, key: Any) -> bool:
        return key in self.stored

    async def get(self, key: Any) -> Any:
        async with self.lock:
            if (found := self.stored.get(key)) is None:
                return None
            metadata, payload = found
            memory_obj = self.backend.allocate(metadata.shapes, metadata.dtypes, metadata.fmt)
            if memory_obj is None:
                return None
            memory_obj.byte_array[:] = payload
            return memory_obj

    async def put(self, key: Any, memory_obj: Any) -> None:
        async with self.lock:
            self.stored[key] = (memory_obj.metadata, bytes(memory_obj.byte_array))
            memory_obj.ref_count_down()

    async def list(self) -> Any:
        assert all(callable(key.to_string) for key in self.stored)
        return [key if isinstance(key, CacheEngineKey | LayerCacheEngineKey) else str(key) for key in self.stored]

    async def close(self) -> None: ...


class DuckAdapter:
    schema = "duck://"

    def can_parse(self, url: str) -> bool:
        return url.startswith(("duck://", "plugin://duck"))

    def create_connector(self, context: Any) -> Any:
        return Duck(context.loop, context.local_cpu_backend, context.config)
