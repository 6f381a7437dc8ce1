"""Connectors in the styles found in the wild: no base class, plain functions, references released inside `put`."""

from __future__ import annotations

from typing import Any

from lmcache_connect import CorruptRecordError

from ..gate import OPEN


class Duck:
    """Derives from nothing; keeps payloads by the key's own string; releases what it was given to put."""

    def __init__(self, loop: Any, local_cpu_backend: Any, config: Any) -> None:
        self.backend = local_cpu_backend
        self.stored: dict[str, tuple[Any, bytes]] = {}
        self.closed = 0
        self.kept: list[Any] = []

    async def exists(self, key: Any) -> Any:
        return key.to_string() in self.stored

    async def exists_sync(self, key: Any) -> Any:  # a coroutine, whatever its name says
        return await self.exists(key)

    async def get(self, key: Any) -> Any:
        if (found := self.stored.get(key.to_string())) is None:
            return None
        metadata, payload = found
        obj = await self.backend.allocate_async(metadata.shapes, metadata.dtypes, metadata.fmt)
        obj.byte_array[:] = payload
        return obj

    async def put(self, key: Any, memory_obj: Any) -> Any:
        self.stored[key.to_string()] = (memory_obj.metadata, bytes(memory_obj.byte_array))
        memory_obj.ref_count_down()

    async def list(self) -> Any:
        return None

    async def close(self) -> Any:
        self.closed += 1


class Hoarder(Duck):
    """Keeps a reference after `put` has returned, for work that it never does."""

    async def put(self, key: Any, memory_obj: Any) -> Any:
        await super().put(key, memory_obj_with_one_more(memory_obj))
        self.kept.append(memory_obj)


def memory_obj_with_one_more(memory_obj: Any) -> Any:
    memory_obj.ref_count_up()
    return memory_obj


class Plain(Duck):
    """Plain functions, which block."""

    def exists(self, key: Any) -> Any:
        return key.to_string() in self.stored

    def get(self, key: Any) -> Any:
        metadata, payload = self.stored[key.to_string()]
        obj = self.backend.allocate(metadata.shapes, metadata.dtypes, metadata.fmt)
        obj.byte_array[:] = payload
        return obj

    def put(self, key: Any, memory_obj: Any) -> Any:
        self.stored[key.to_string()] = (memory_obj.metadata, bytes(memory_obj.byte_array))

    def list(self) -> Any:
        return list(self.stored)

    def remove_sync(self, key: Any) -> bool:
        return self.stored.pop(key.to_string(), None) is not None

    def close(self) -> Any:
        self.closed += 1


class Blocking(Plain):
    """Its `get` does not return before the test lets it."""

    def get(self, key: Any) -> Any:
        OPEN.wait(60)
        return super().get(key)


class SlowReader(Plain):
    """Its `put` does not read the memory before the test lets it."""

    began = False

    def put(self, key: Any, memory_obj: Any) -> Any:
        self.began = True
        OPEN.wait(60)
        super().put(key, memory_obj)


class Holes(Duck):
    """Its batches have no slot for what is missing."""

    def support_batched_get(self) -> bool:
        return True

    async def batched_get(self, keys: Any) -> Any:
        found = [await self.get(key) for key in keys]
        return [obj for obj in found if obj is not None]


class Bytes(Duck):
    """Gives bytes where a memory object is due."""

    async def get(self, key: Any) -> Any:
        return b"payload"


class Damaged(Duck):
    """Says that whatever it holds is damaged, and has a `remove` that nobody must call for that."""

    async def get(self, key: Any) -> Any:
        raise CorruptRecordError("checksum", "damaged on purpose", removable=True)

    async def remove(self, key: Any) -> bool:
        return self.stored.pop(key.to_string(), None) is not None


class Careful(Damaged):
    """Looks again."""

    def __init__(self, loop: Any, local_cpu_backend: Any, config: Any) -> None:
        super().__init__(loop, local_cpu_backend, config)
        self.looked_at: list[str] = []

    def remove_damaged(self, key: Any, error: CorruptRecordError) -> bool:
        assert error.removable
        self.looked_at.append(key.to_string())
        return True
