"""A plain Redis connector on redis-py: one command a call, one key at a time, several copies of every payload."""

from __future__ import annotations

from typing import Any

import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from lmcache_connect import (
    ConnectorAdapter,
    ConnectorContext,
    ConnectorOptions,
    Key,
    LocalCPUBackend,
    MemoryObj,
    RemoteConnector,
    StoreUnavailableError,
    key_string,
)
from lmcache_connect.frame import decode_record, encode_record


class RedisReferenceConnector(RemoteConnector):
    """Reads and writes the same records as the fast connector."""

    def __init__(
        self, url: str, local_cpu_backend: LocalCPUBackend, config: Any = None, allocate_timeout: float = 5.0
    ) -> None:
        super().__init__(config)
        self._allocate_timeout = allocate_timeout
        self._backend = local_cpu_backend
        # redis-py would try ten times, with pauses; retrying and deadlines are the manager's.
        self._client = redis.asyncio.Redis.from_url(url, protocol=2, retry=Retry(NoBackoff(), 0))

    async def exists(self, key: Key) -> bool:
        return bool(await self._client.exists(key_string(key)))

    async def get(self, key: Key) -> MemoryObj | None:
        record = await self._client.get(key_string(key))
        if not isinstance(record, bytes):
            return None
        metadata, payload = decode_record(key_string(key), record)
        obj = await self._backend.allocate_chunk_async(metadata, timeout=self._allocate_timeout)
        obj.byte_array[:] = payload
        return obj

    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        await self._client.set(key_string(key), encode_record(key_string(key), memory_obj))

    async def remove(self, key: Key) -> bool:
        return bool(await self._client.unlink(key_string(key)))

    async def list(self) -> list[str]:
        return [name.decode() async for name in self._client.scan_iter(_type="string")]

    async def ping(self) -> int:
        try:
            await self._client.ping()
        except redis.exceptions.ConnectionError as error:
            raise StoreUnavailableError("redis", str(error)) from error
        return 0

    async def close(self) -> None:
        await self._client.aclose()


class RedisReferenceAdapter(ConnectorAdapter):
    """`plain-redis://[user[:password]@]host[:port][/db]`"""

    schema = "plain-redis://"
    options = ConnectorOptions

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        url = context.url.partition("?")[0].replace(self.schema, "redis://", 1)
        return RedisReferenceConnector(
            url, context.local_cpu_backend, context.config, context.settings.allocate_timeout
        )
