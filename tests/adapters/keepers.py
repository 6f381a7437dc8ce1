"""Connectors that derive from nothing and keep chunks in the process."""

from __future__ import annotations

from typing import Any

from lmcache_connect.memory import release_all
from lmcache_connect.metadata import ChunkMetadata

KEPT: dict[str, tuple[ChunkMetadata, bytes]] = {}


class Keeper:
    """One key at a time."""

    def __init__(self, local_cpu_backend: Any) -> None:
        self.backend = local_cpu_backend
        self.raises: set[str] = set()
        self.asked = 0
        self.fails_from: int | None = None
        """The number of gets after which the store fails as a whole."""

    def check_store(self) -> None:
        if self.fails_from is not None and self.asked >= self.fails_from:
            raise LookupError("the shelves are closed")

    async def exists(self, key: Any) -> bool:
        self.check_store()
        return key.to_string() in KEPT

    async def get(self, key: Any) -> Any:
        self.check_store()
        self.asked += 1
        name = key.to_string()
        if name in self.raises:
            raise LookupError(f"no such shelf: {name}")
        if name not in KEPT:
            return None
        metadata, payload = KEPT[name]
        obj = await self.backend.allocate_chunk_async(metadata, timeout=0.05)
        obj.byte_array[:] = payload
        return obj

    async def put(self, key: Any, memory_obj: Any) -> None:
        KEPT[key.to_string()] = (memory_obj.metadata, bytes(memory_obj.byte_array))

    async def list(self) -> list[str]:
        return list(KEPT)

    async def close(self) -> None:
        pass


class BatchKeeper(Keeper):
    """With batches, which fail as a whole."""

    def support_batched_get(self) -> bool:
        return True

    async def batched_get(self, keys: Any) -> Any:
        found: list[Any] = []
        try:
            for key in keys:
                found += [await self.get(key)]
        except BaseException:
            release_all(found)
            raise
        return found
