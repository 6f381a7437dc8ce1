"""A plain Redis connector on redis-py: one command a call, one key at a time, several copies of every payload."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, cast

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
from lmcache_connect.contract import MISMATCH, CallerMemory, Descriptions, Flags, gather, note_missed
from lmcache_connect.errors import MissingExtraError
from lmcache_connect.metadata import ChunkMetadata
from lmcache_connect.record import chunk_names, decode_piece, decode_record, encode_record, encode_views, key_of_name

try:
    import redis.asyncio
    import redis.exceptions
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
except ImportError as missing:
    raise MissingExtraError("the plain Redis connector", "redis", "redis") from missing


_CONNECTIONS: Final = 64

_REMOVE_SEEN: Final = """
if redis.call('TYPE', KEYS[1]).ok ~= 'string' then return 0 end
return redis.sha1hex(redis.call('GET', KEYS[1])) == ARGV[1] and redis.call('UNLINK', KEYS[1]) or 0
"""
"""Removes a value if it has the bytes that were seen: the server compares, so a fault on the way removes nothing."""


def _name(key: Key) -> str:
    return chunk_names("", [key_string(key)])[0]


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
        # redis-py would try ten times, with pauses; retrying and deadlines are the manager's. With a timeout of its own
        # it waits by asyncio.wait_for(), which loses a cancellation now and then before Python 3.12.
        # Its ordinary pool fails the call that finds no connection free. This one lets it wait, and deadlines end that.
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=None,
            socket_timeout=None,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
        )
        self._client = redis.asyncio.Redis.from_pool(pool)

    async def exists(self, key: Key) -> bool:
        return bool(await self._client.exists(_name(key)))

    async def get(self, key: Key) -> MemoryObj | None:
        found = await self._read(_name(key))
        if found is None:
            return None
        metadata, payload = found
        obj = await self._backend.allocate_chunk_async(metadata, timeout=self._allocate_timeout)
        obj.byte_array[:] = payload
        return obj

    async def batched_get_into(
        self, keys: Sequence[Key], buffers: Sequence[Any], metadata: Descriptions = None
    ) -> Flags:
        with CallerMemory.of(keys, buffers, metadata, writable=True) as theirs:
            return await gather([partial(self._get_into, theirs, index) for index in range(len(theirs.keys))])

    async def _get_into(self, theirs: CallerMemory, index: int) -> bool:
        try:
            found = await self._read(_name(theirs.keys[index]))
        except CorruptRecordError as error:
            await self.discard_corrupt(theirs.keys[index], error)
            return False
        if found is None:
            return False
        metadata, payload = found
        if not theirs.accepts(index, metadata):
            note_missed(MISMATCH)
            return False
        theirs.regions[index].write(0, payload)
        return True

    async def _read(self, name: str) -> tuple[ChunkMetadata, bytes | memoryview] | None:
        try:
            record = await self._client.get(name)
        except redis.exceptions.ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            return await self._read_striped(name)
        return decode_record(name, record) if isinstance(record, bytes) else None

    async def _read_striped(self, name: str) -> tuple[ChunkMetadata, bytes] | None:
        """Gets what the fast connector stores as a hash of pieces. One command reads all of them at the same moment."""
        try:
            fields = cast("dict[bytes, bytes]", await self._client.hgetall(name))
        except redis.exceptions.ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            raise CorruptRecordError("type", "a value of another type, which another program has stored") from error
        if not fields:
            return None
        pieces = [decode_piece(name, fields.get(b"%d" % index, b"")) for index in range(len(fields))]
        first, _ = pieces[0]
        if first.plan is None or len(pieces) != first.plan.pieces:
            raise CorruptRecordError("piece", "a piece of the chunk is missing")
        if any((header.plan, header.index) != (first.plan, index) for index, (header, _) in enumerate(pieces)):
            raise CorruptRecordError("piece", "the pieces are not of one put")
        return first.metadata, b"".join([payload for _, payload in pieces])

    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        await self._client.set(_name(key), encode_record(_name(key), memory_obj))

    async def batched_put_from(
        self, keys: Sequence[Key], buffers: Sequence[Any], metadata: Descriptions = None
    ) -> Flags:
        with CallerMemory.of(keys, buffers, metadata, writable=False) as theirs:
            return await gather([partial(self._put_from, theirs, index) for index in range(len(theirs.keys))])

    async def _put_from(self, theirs: CallerMemory, index: int) -> bool:
        name = _name(theirs.keys[index])
        await self._client.set(name, encode_views(name, theirs.stored_as(index), theirs.regions[index].views))
        return True

    async def remove(self, key: Key) -> bool:
        return bool(await self._client.unlink(_name(key)))

    async def remove_damaged(self, key: Key, error: CorruptRecordError) -> bool:
        name = _name(key)
        try:
            record = await self._client.get(name)
        except redis.exceptions.ResponseError:  # a hash of the fast connector, which looks after it
            return False
        if not isinstance(record, bytes):
            return False
        try:
            decode_record(name, record)
        except CorruptRecordError as again:
            if again.removable:
                seen = hashlib.sha1(record, usedforsecurity=False).hexdigest()
                return bool(await self._client.eval(_REMOVE_SEEN, 1, name, seen))
        return False

    async def list(self) -> list[str]:
        keys = [key_of_name("", name.decode("utf-8", "replace")) async for name in self._client.scan_iter()]
        return [key for key in keys if key is not None]

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
