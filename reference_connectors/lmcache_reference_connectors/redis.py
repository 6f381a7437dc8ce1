"""A plain Redis connector on redis-py: one command a call, one key at a time, several copies of every payload."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from lmcache_connect import (
    ChunkMemory,
    ConnectorAdapter,
    ConnectorContext,
    ConnectorOptions,
    CorruptRecordError,
    Key,
    MemoryObj,
    RemoteConnector,
    StoreUnavailableError,
    key_string,
)
from lmcache_connect.errors import MissingExtraError
from lmcache_connect.record import StripePlan, decode_part, encode_record, is_part_name

try:
    import redis.asyncio
    import redis.exceptions
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
except ImportError as missing:
    raise MissingExtraError("the plain Redis connector", "redis", "redis") from missing


_REMOVE_SEEN: Final = """
local found = redis.call('GET', KEYS[1])
return found and redis.sha1hex(found) == ARGV[1] and redis.call('UNLINK', KEYS[1]) or 0
"""
"""Removes a value if it has the bytes that were seen: the server compares, so a fault on the way removes nothing."""


class RedisReferenceConnector(RemoteConnector):
    """Reads and writes the same records as the fast connector, but writes every chunk whole."""

    def __init__(
        self, url: str, local_cpu_backend: ChunkMemory, config: Any = None, allocate_timeout: float = 5.0
    ) -> None:
        super().__init__(config)
        self._allocate_timeout = allocate_timeout
        self._backend = local_cpu_backend
        if url.startswith("external://"):  # loaded as a stranger's: the host is Redis's, and the rest names this class
            url = f"redis://{url.removeprefix('external://').partition('/')[0]}"
        # redis-py would try ten times, with pauses; retrying and deadlines are the manager's.
        self._client = redis.asyncio.Redis.from_url(url, protocol=2, retry=Retry(NoBackoff(), 0))

    async def exists(self, key: Key) -> bool:
        return bool(await self._client.exists(key_string(key)))

    async def get(self, key: Key) -> MemoryObj | None:
        name = key_string(key)
        record = await self._client.get(name)
        if not isinstance(record, bytes):
            return None
        header, payload = decode_part(name, record)
        if header.plan is not None:  # the fast connector's, for a large chunk
            parts = range(1, header.plan.parts + 1)
            payload = memoryview(b"".join([await self._part(name, header.plan, index) for index in parts]))
        obj = await self._backend.allocate_chunk_async(header.metadata, timeout=self._allocate_timeout)
        obj.byte_array[:] = payload
        return obj

    async def _part(self, name: str, plan: StripePlan, index: int) -> memoryview:
        record = await self._client.get(plan.part_name(name, index))
        header, payload = decode_part(name, record if isinstance(record, bytes) else b"")
        if (header.plan, header.part_index) != (plan, index):
            raise CorruptRecordError("part", f"it is not part {index} of this generation")
        return payload

    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        await self._client.set(key_string(key), encode_record(key_string(key), memory_obj))

    async def remove(self, key: Key) -> bool:
        return bool(await self._client.unlink(key_string(key)))

    async def remove_damaged(self, key: Key, error: CorruptRecordError) -> bool:
        name = key_string(key)
        record = await self._client.get(name)
        if not isinstance(record, bytes):
            return False
        try:
            decode_part(name, record)
        except CorruptRecordError as again:
            if again.removable:
                seen = hashlib.sha1(record, usedforsecurity=False).hexdigest()
                return bool(await self._client.eval(_REMOVE_SEEN, 1, name, seen))
        return False

    async def list(self) -> list[str]:
        names = [name.decode() async for name in self._client.scan_iter(_type="string")]
        return [name for name in names if not is_part_name(name)]

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
