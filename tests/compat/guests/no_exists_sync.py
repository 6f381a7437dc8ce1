"""Has no `exists_sync`, which LMCache itself would not let pass."""

from __future__ import annotations

from typing import Any

from lmcache.v1.storage_backend.connector.base_connector import RemoteConnector


class NoExistsSync(RemoteConnector):
    def __init__(self, loop: Any, local_cpu_backend: Any, config: Any) -> None:
        self.backend = local_cpu_backend
        self.stored: dict[str, tuple[Any, Any, bytes]] = {}

    async def exists(self, key: Any) -> bool:
        return key.to_string() in self.stored

    async def get(self, key: Any) -> Any:
        if (found := self.stored.get(key.to_string())) is None:
            return None
        shape, dtype, payload = found
        memory_obj = self.backend.allocate(shape, dtype)
        memory_obj.byte_array[:] = payload
        return memory_obj

    async def put(self, key: Any, memory_obj: Any) -> None:
        self.stored[key.to_string()] = (memory_obj.get_shape(), memory_obj.get_dtype(), bytes(memory_obj.byte_array))

    async def list(self) -> Any:
        return list(self.stored)

    async def close(self) -> None: ...
