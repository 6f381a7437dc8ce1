"""A store in this process's memory, named by the URL's host: `memory://name`. It lasts as long as the process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmcache_connect import (
    ChunkMemory,
    ConnectorAdapter,
    ConnectorContext,
    ConnectorOptions,
    CorruptRecordError,
    Key,
    MemoryObj,
    RemoteConnector,
    key_string,
)
from lmcache_connect.contract import MISMATCH, CallerMemory, Descriptions, note_missed
from lmcache_connect.keys import key_strings
from lmcache_connect.record import decode_record, encode_record, encode_views

_stores: dict[str, dict[str, bytes]] = {}


class MemoryConnector(RemoteConnector):
    """Keeps each record, as it would stand in a real store, in a dictionary."""

    ends_when_cancelled = True

    def __init__(
        self, url: str, local_cpu_backend: ChunkMemory, config: Any = None, allocate_timeout: float = 5.0
    ) -> None:
        super().__init__(config)
        self._allocate_timeout = allocate_timeout
        self.records = _stores.setdefault(url, {})
        self._backend = local_cpu_backend

    async def exists(self, key: Key) -> bool:
        return key_string(key) in self.records

    async def get(self, key: Key) -> MemoryObj | None:
        record = self.records.get(key_string(key))
        if record is None:
            return None
        metadata, payload = decode_record(key_string(key), record)
        obj = await self._backend.allocate_chunk_async(metadata, timeout=self._allocate_timeout)
        obj.byte_array[:] = payload
        return obj

    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        self.records[key_string(key)] = encode_record(key_string(key), memory_obj)

    # Without these two, `get` and `put` would do, by way of the arena.

    async def batched_get_into(
        self, keys: Sequence[Key], buffers: Sequence[Any], metadata: Descriptions = None
    ) -> list[bool]:
        found = []
        with CallerMemory.of(keys, buffers, metadata, writable=True) as theirs:
            for index, name in enumerate(key_strings(theirs.keys)):
                try:
                    found.append(self._receive(name, theirs, index))
                except CorruptRecordError as error:
                    found.append(False)
                    await self.discard_corrupt(theirs.keys[index], error)
        return found

    def _receive(self, name: str, theirs: CallerMemory, index: int) -> bool:
        record = self.records.get(name)
        if record is None:
            return False
        described, payload = decode_record(name, record)
        if not theirs.accepts(index, described):
            note_missed(MISMATCH)
            return False
        theirs.regions[index].write(0, payload)
        return True

    async def batched_put_from(
        self, keys: Sequence[Key], buffers: Sequence[Any], metadata: Descriptions = None
    ) -> list[bool]:
        with CallerMemory.of(keys, buffers, metadata, writable=False) as theirs:
            for index, name in enumerate(key_strings(theirs.keys)):
                self.records[name] = encode_views(name, theirs.stored_as(index), theirs.regions[index].views)
        return [True] * len(keys)

    async def remove(self, key: Key) -> bool:
        return self.records.pop(key_string(key), None) is not None

    async def remove_damaged(self, key: Key, error: CorruptRecordError) -> bool:
        name = key_string(key)
        record = self.records.get(name)
        try:
            decode_record(name, record or b"")
        except CorruptRecordError as again:  # no other task runs between this look and the removal
            return again.removable and self.records.pop(name, None) is not None
        return False

    async def list(self) -> list[str]:
        return list(self.records)

    async def ping(self) -> int:
        return 0

    async def close(self) -> None:
        """The records stay, as they do in a real store."""


class MemoryConnectorAdapter(ConnectorAdapter):
    """`memory://name`"""

    schema = "memory://"
    options = ConnectorOptions

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        return MemoryConnector(
            context.remote_url.label(), context.local_cpu_backend, context.config, context.settings.allocate_timeout
        )
