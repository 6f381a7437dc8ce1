"""A whole connector with its adapter, in the style of LMCache's own: two keys a chunk, metadata apart from payload."""

from __future__ import annotations

import asyncio
from typing import List

import redis.asyncio as redis
from lmcache.logging import init_logger
from lmcache.utils import CacheEngineKey, _lmcache_nvtx_annotate
from lmcache.v1.config import LMCacheEngineConfig
from lmcache.v1.memory_management import MemoryObj
from lmcache.v1.storage_backend.connector import (
    ConnectorAdapter,
    ConnectorContext,
    extract_plugin_type,
    parse_remote_url,
)
from lmcache.v1.storage_backend.connector.base_connector import RemoteConnector
from lmcache.v1.storage_backend.local_cpu_backend import LocalCPUBackend

try:
    from lmcache.v1.protocol import RemoteMetadata
except ImportError:  # since LMCache 0.5.7
    from lmcache.inprocess.v1.protocol import RemoteMetadata

logger = init_logger(__name__)

PLUGIN_TYPE = "mystore"


class MyStoreConnector(RemoteConnector):
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        local_cpu_backend: LocalCPUBackend,
        config: LMCacheEngineConfig | None,
        plugin_name: str | None = None,
        address: str | None = None,
    ) -> None:
        super().__init__(local_cpu_backend.config, local_cpu_backend.metadata)
        if address is None and config is not None and config.extra_config:
            prefix = plugin_name or PLUGIN_TYPE
            address = config.extra_config.get("remote_storage_plugin.%s.address" % prefix)
        if address is None:
            parsed = parse_remote_url(config.remote_url)
            address = f"redis://{parsed.host}:{parsed.port}"
        self.loop = loop
        self.local_cpu_backend = local_cpu_backend
        self.connection = redis.from_url(address)
        logger.info("connected to my store")

    async def exists(self, key: CacheEngineKey) -> bool:
        return bool(await self.connection.exists(key.to_string() + "metadata"))

    def exists_sync(self, key: CacheEngineKey) -> bool:
        return asyncio.run_coroutine_threadsafe(self.exists(key), self.loop).result()

    @_lmcache_nvtx_annotate
    async def get(self, key: CacheEngineKey) -> MemoryObj | None:
        name = key.to_string()
        encoded, payload = await self.connection.mget(name + "metadata", name + "kv_bytes")
        if encoded is None or payload is None:
            return None
        metadata = RemoteMetadata.deserialize(memoryview(encoded))
        memory_obj = self.local_cpu_backend.allocate(metadata.shapes, metadata.dtypes, metadata.fmt)
        if memory_obj is None:
            logger.warning("no memory")
            return None
        view = memory_obj.byte_array
        if view.format == "<B":
            view = view.cast("B")
        view[: metadata.length] = payload
        return memory_obj

    async def put(self, key: CacheEngineKey, memory_obj: MemoryObj) -> None:
        payload = memory_obj.byte_array
        metadata = RemoteMetadata(
            len(payload), memory_obj.get_shapes(), memory_obj.get_dtypes(), memory_obj.get_memory_format()
        )
        async with self.connection.pipeline(transaction=True) as pipe:
            pipe.set(key.to_string() + "kv_bytes", payload)
            pipe.set(key.to_string() + "metadata", metadata.serialize())
            await pipe.execute()

    def remove_sync(self, key: CacheEngineKey) -> bool:
        names = (key.to_string() + "metadata", key.to_string() + "kv_bytes")
        return bool(asyncio.run_coroutine_threadsafe(self.connection.delete(*names), self.loop).result())

    async def list(self) -> List[str]:
        return [name[: -len(b"metadata")] async for name in self.connection.scan_iter("*metadata")]

    def support_ping(self) -> bool:
        return True

    async def ping(self) -> int:
        return 0 if await self.connection.ping() else 1

    async def close(self) -> None:
        await self.connection.aclose()


class MyStoreConnectorAdapter(ConnectorAdapter):
    def __init__(self) -> None:
        super().__init__("mystore://")

    def can_parse(self, url: str) -> bool:
        if url.startswith(self.schema):
            return True
        return url.startswith("plugin://") and extract_plugin_type(url[len("plugin://") :]) == PLUGIN_TYPE

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        address = None
        if context.url.startswith(self.schema):
            parsed = parse_remote_url(context.url)
            address = f"redis://{parsed.host}:{parsed.port}"
        return MyStoreConnector(
            loop=context.loop,
            local_cpu_backend=context.local_cpu_backend,
            config=context.config,
            plugin_name=context.plugin_name,
            address=address,
        )


class PluginOnlyAdapter(MyStoreConnectorAdapter):
    """Its schema is that of a plug-in; it knows a scheme of its own all the same."""

    def __init__(self) -> None:
        ConnectorAdapter.__init__(self, "plugin://mystore")

    def can_parse(self, url: str) -> bool:
        return url.startswith((self.schema, "yourstore://"))

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        parsed = parse_remote_url(context.url)
        return MyStoreConnector(
            context.loop, context.local_cpu_backend, context.config, address=f"redis://{parsed.host}:{parsed.port}"
        )
