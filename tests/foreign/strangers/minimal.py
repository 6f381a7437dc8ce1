"""A subclass that never calls super().__init__() and has no more than it must."""

from __future__ import annotations

from typing import Any

from lmcache_connect import ChunkMemory, Key, MemoryObj, RemoteConnector, key_string
from lmcache_connect.record import decode_record, encode_record


class MinimalConnector(RemoteConnector):
    def __init__(self, loop: Any, local_cpu_backend: ChunkMemory, config: Any, **options: Any) -> None:
        self.given = {"loop": loop, "local_cpu_backend": local_cpu_backend, "config": config, **options}
        self.backend = local_cpu_backend
        self.records: dict[str, bytes] = {}

    async def exists(self, key: Key) -> bool:
        return key_string(key) in self.records

    async def get(self, key: Key) -> MemoryObj | None:
        if (record := self.records.get(key_string(key))) is None:
            return None
        metadata, payload = decode_record(key_string(key), record)
        chunk = await self.backend.allocate_chunk_async(metadata)
        chunk.byte_array[:] = payload
        return chunk

    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        self.records[key_string(key)] = encode_record(key_string(key), memory_obj)

    async def remove(self, key: Key) -> bool:
        return self.records.pop(key_string(key), None) is not None

    async def list(self) -> list[str]:
        return list(self.records)

    async def close(self) -> None:
        self.records.clear()


class Asking(MinimalConnector):
    def __init__(self, local_cpu_backend: Any, context: Any, url: Any, metadata: Any, speed: str, host: str) -> None:
        super().__init__(None, local_cpu_backend, None, context=context, url=url, speed=speed, host=host)


class Demanding(MinimalConnector):
    def __init__(self, loop: Any, flux_capacitor: Any) -> None:
        super().__init__(loop, flux_capacitor, None)


class Explosive(MinimalConnector):
    def __init__(self) -> None:
        raise RuntimeError("no power")


class Quitting(MinimalConnector):
    def __init__(self) -> None:
        raise SystemExit(3)


class NotAConnector:
    async def get(self, key: Key) -> None: ...


not_a_class = MinimalConnector
instance = NotAConnector()
