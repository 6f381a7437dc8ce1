"""Stores payloads alone: what they are follows from the model. Partial chunks are cut out of full ones."""

from __future__ import annotations

from typing import Any

from lmcache.v1.memory_management import BytesBufferMemoryObj, MemoryFormat
from lmcache.v1.storage_backend.connector.base_connector import RemoteConnector


class FullChunks(RemoteConnector):
    def __init__(self, loop: Any, local_cpu_backend: Any, config: Any, metadata: Any) -> None:
        super().__init__(config, metadata)
        self.backend = local_cpu_backend
        self.stored: dict[str, bytes] = {}
        assert self.full_chunk_size_bytes == self.meta_shapes[0].numel() * self.meta_dtypes[0].itemsize
        assert self.meta_fmt is MemoryFormat.KV_2LTD
        assert self.remote_metadata_bytes == 28

    async def exists(self, key: Any) -> bool:
        return key.to_string() in self.stored

    def exists_sync(self, key: Any) -> bool:
        return key.to_string() in self.stored

    async def get(self, key: Any) -> Any:
        if (payload := self.stored.get(key.to_string())) is None:
            return None
        memory_obj = self.backend.allocate(self.meta_shapes, self.meta_dtypes, self.meta_fmt)
        memory_obj.byte_array[: len(payload)] = payload
        return self.cut(memory_obj, len(payload))

    def cut(self, memory_obj: Any, size: int) -> Any:
        return self.reshape_partial_chunk(memory_obj, size)

    async def put(self, key: Any, memory_obj: Any) -> None:
        self.stored[key.to_string()] = bytes(memory_obj.byte_array)

    async def list(self) -> Any:
        return list(self.stored)

    async def close(self) -> None: ...


class ByHand(FullChunks):
    """Cuts a chunk as older connectors do, by writing into the object."""

    def cut(self, memory_obj: Any, size: int) -> Any:
        shape = list(memory_obj.meta.shape)
        shape[2] = size // self.single_token_size
        memory_obj.meta.shape = type(memory_obj.meta.shape)(shape)
        memory_obj.set_used_size(size)
        return memory_obj


class Buffers(FullChunks):
    """Gives out buffers of its own."""

    async def get(self, key: Any) -> Any:
        payload = self.stored.get(key.to_string())
        return None if payload is None else BytesBufferMemoryObj(bytearray(payload))
