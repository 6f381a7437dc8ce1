"""Connectors that forget what they should do."""

from __future__ import annotations

from typing import Any

from lmcache.utils import CacheEngineKey
from lmcache.v1.memory_management import MemoryObj
from lmcache.v1.storage_backend.connector.base_connector import RemoteConnector


class NoSuper(RemoteConnector):
    """Never calls super().__init__(), releases its reference in put, lists nothing, checks with a coroutine."""

    def __init__(self, loop: Any, local_cpu_backend: Any, config: Any) -> None:
        self.backend = local_cpu_backend
        self.stored: dict[str, tuple[Any, Any, Any, bytes]] = {}
        self.kept: list[Any] = []

    async def exists(self, key: CacheEngineKey) -> bool:
        return key.to_string() in self.stored

    async def exists_sync(self, key: CacheEngineKey) -> bool:  # type: ignore[override]
        return await self.exists(key)

    async def get(self, key: CacheEngineKey) -> Any:
        if (found := self.stored.get(key.to_string())) is None:
            return None
        shapes, dtypes, fmt, payload = found
        memory_obj = self.backend.allocate(shapes, dtypes, fmt)
        memory_obj.byte_array[:] = payload
        return memory_obj

    async def put(self, key: CacheEngineKey, memory_obj: MemoryObj) -> None:
        assert isinstance(memory_obj, MemoryObj)
        self.stored[key.to_string()] = (
            memory_obj.get_shapes(),
            memory_obj.get_dtypes(),
            memory_obj.get_memory_format(),
            bytes(memory_obj.byte_array),
        )
        memory_obj.ref_count_down()

    async def list(self) -> Any:
        return None

    async def close(self) -> None:
        self.stored.clear()


class Unlisted(NoSuper):
    """Cannot list."""

    async def list(self) -> Any:
        raise NotImplementedError("not in this store")


class Keeper(NoSuper):
    """Keeps the view that `put` is given."""

    async def put(self, key: CacheEngineKey, memory_obj: MemoryObj) -> None:
        memory_obj.ref_count_up()
        self.kept.append(memory_obj)
        await super().put(key, memory_obj)


class Compacting(NoSuper):
    """Its batches leave out what is missing."""

    def support_batched_get(self) -> bool:
        return True

    async def batched_get(self, keys: Any) -> Any:
        found = [await self.get(key) for key in keys]
        return [memory_obj for memory_obj in found if memory_obj is not None]


class Holes(Compacting):
    """Its batches have a hole for what is missing."""

    async def batched_get(self, keys: Any) -> Any:
        return [await self.get(key) for key in keys]


class Demanding(NoSuper):
    """Needs the shape of a full chunk."""

    async def get(self, key: CacheEngineKey) -> Any:
        return self.backend.allocate(self.meta_shapes, self.meta_dtypes, self.meta_fmt)


class Incomplete(RemoteConnector):
    """Has no `put`."""

    def __init__(self, loop: Any, local_cpu_backend: Any, config: Any) -> None: ...

    async def exists(self, key: Any) -> bool:
        return False

    async def get(self, key: Any) -> Any: ...

    async def list(self) -> Any: ...

    async def close(self) -> None: ...
