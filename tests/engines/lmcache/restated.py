"""What LMCache's multi-process server asks of an L2 adapter and of a native client, restated in a few lines.

Source: LMCache 0.5.6 and 0.5.7rc2, `lmcache/v1/distributed/`: `api.py`, `internal_api.py`, `l2_adapters/base.py` and
`l2_adapters/native_connector_l2_adapter.py`.
"""

from __future__ import annotations

import enum
import select
import sys
import types
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lmcache_connect.engines.lmcache import NativeClient

WAIT = 30.0
"""Seconds after which a test fails that waits for an answer."""


@dataclass(frozen=True)
class ObjectKey:
    """LMCache's key."""

    chunk_hash: bytes
    model_name: str = "org/model"
    kv_rank: int = 0x0102
    object_group_id: int = 0
    cache_salt: str = ""

    def to_encoded_object_key(self) -> tuple[str, str, int, int, str]:
        return (self.chunk_hash.hex(), self.model_name, self.kv_rank, self.object_group_id, self.cache_salt)

    def text(self) -> str:
        """What LMCache gives native clients."""
        text = f"{self.model_name}@{self.kv_rank:08x}@{self.object_group_id:x}@{self.chunk_hash.hex()}"
        return f"{text}@{self.cache_salt}" if self.cache_salt else text


@dataclass
class MemoryObject:
    """Memory of LMCache's."""

    memory: bytearray

    @property
    def byte_array(self) -> memoryview:
        return memoryview(self.memory)


class Bitmap:
    """As many bits as keys."""

    def __init__(self, size: int) -> None:
        self.flags = [False] * size

    def set(self, index: int) -> None:
        self.flags[index] = True


class L2StoreResult(int):
    """The bytes that were stored, or -1."""

    def __new__(cls, success: bool, bytes_transferred: int) -> L2StoreResult:
        return super().__new__(cls, bytes_transferred if success else -1)


@dataclass(frozen=True)
class KeyEntry:
    key: Any
    size_bytes: int


@dataclass(frozen=True)
class KeyListPage:
    entries: tuple[KeyEntry, ...]
    next_page_token: str | None


class MemorySegment(enum.Enum):
    STORAGE = "storage"


class MemoryResidency(enum.Enum):
    REMOTE = "remote"


@dataclass(frozen=True)
class MemoryTags:
    segment: MemorySegment
    residency: MemoryResidency


@dataclass
class Usage:
    total_bytes_used: int
    total_capacity_bytes: int
    bytes_by_cache_salt: dict[str, int]


@dataclass
class Events:
    """A listener. `fails`: it raises."""

    stored: list[tuple[list[Any], list[int]]] = field(default_factory=list)
    accessed: list[list[Any]] = field(default_factory=list)
    deleted: list[list[Any]] = field(default_factory=list)
    fails: bool = False


class L2AdapterInterface(ABC):
    """The base class, with its accounting."""

    def __init__(self, max_capacity_bytes: int = 0) -> None:
        self.listeners: list[Events] = []
        self._max_capacity_bytes = max_capacity_bytes
        self._bytes: dict[str, int] = {}

    @abstractmethod
    def get_store_event_fd(self) -> int: ...

    @abstractmethod
    def get_lookup_and_lock_event_fd(self) -> int: ...

    @abstractmethod
    def get_load_event_fd(self) -> int: ...

    @abstractmethod
    def submit_store_task(self, keys: list[Any], objects: list[Any]) -> int: ...

    @abstractmethod
    def pop_completed_store_tasks(self) -> dict[int, Any]: ...

    @abstractmethod
    def submit_lookup_and_lock_task(self, keys: list[Any], group_layout_descs: dict[int, Any]) -> int: ...

    @abstractmethod
    def query_lookup_and_lock_result(self, task_id: int) -> Any: ...

    @abstractmethod
    def submit_unlock(self, keys: list[Any]) -> None: ...

    @abstractmethod
    def submit_load_task(self, keys: list[Any], objects: list[Any]) -> int: ...

    @abstractmethod
    def query_load_result(self, task_id: int) -> Any: ...

    @abstractmethod
    def get_memory_tags(self) -> Any: ...

    @abstractmethod
    def close(self) -> None: ...

    def _notify_keys_stored(self, keys: list[Any], sizes: list[int]) -> None:
        for key, size in zip(keys, sizes, strict=True):
            self._bytes[key.cache_salt] = self._bytes.get(key.cache_salt, 0) + size
        for listener in self.listeners:
            if listener.fails:
                raise ValueError("a listener has failed")
            listener.stored.append((keys, sizes))

    def _notify_keys_accessed(self, keys: list[Any]) -> None:
        for listener in self.listeners:
            listener.accessed.append(keys)

    def _notify_keys_deleted(self, keys: list[Any], sizes: list[int]) -> None:
        for key, size in zip(keys, sizes, strict=True):
            self._bytes[key.cache_salt] = self._bytes.get(key.cache_salt, 0) - size
        for listener in self.listeners:
            listener.deleted.append(keys)

    def get_usage(self) -> Usage:
        return Usage(sum(self._bytes.values()), self._max_capacity_bytes, dict(self._bytes))


MODULES = {
    "lmcache.lmcache_native": (Bitmap,),
    "lmcache.v1.distributed.api": (KeyEntry, KeyListPage, MemoryTags, MemorySegment, MemoryResidency),
    "lmcache.v1.distributed.internal_api": (L2StoreResult,),
    "lmcache.v1.distributed.l2_adapters.base": (L2AdapterInterface,),
}


def put_modules(put: Callable[[dict[str, Any], str, Any], None]) -> None:
    """Puts modules with these classes in the place of LMCache's, by `put(sys.modules, name, module)`."""
    for path, classes in MODULES.items():
        parts = path.split(".")
        for end in range(1, len(parts)):
            put(sys.modules, ".".join(parts[:end]), types.ModuleType(parts[end - 1]))
        module = types.ModuleType(path)
        vars(module).update({kind.__name__: kind for kind in classes})
        put(sys.modules, path, module)


def is_readable(descriptor: int, seconds: float = WAIT) -> bool:
    """Whether the descriptor becomes readable in time."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


class NativeHost:
    """Drives a `NativeClient` as LMCache does."""

    def __init__(self, client: NativeClient) -> None:
        self.client = client

    def begin_load(self, keys: list[ObjectKey], memory: list[bytearray]) -> int:
        return self.client.submit_batch_get([key.text() for key in keys], [memoryview(each) for each in memory])

    def end(self, number: int) -> tuple[bool, str, list[bool]]:
        """The answer of the only batch that is under way."""
        assert is_readable(self.client.event_fd())
        [(told, ok, error, flags)] = self.client.drain_completions()
        assert told == number
        assert flags is not None
        assert self.client.drain_completions() == []
        return ok, error, flags

    def end_load(self, number: int) -> list[bool]:
        return self.end(number)[2]

    def store(self, keys: list[ObjectKey], memory: list[bytes]) -> bool:
        views = [memoryview(each) for each in memory]
        return self.end(self.client.submit_batch_set([key.text() for key in keys], views))[0]

    def exists(self, keys: list[ObjectKey]) -> list[bool]:
        return self.end(self.client.submit_batch_exists([key.text() for key in keys]))[2]

    def load(self, keys: list[ObjectKey], memory: list[bytearray]) -> list[bool]:
        return self.end_load(self.begin_load(keys, memory))

    def delete(self, keys: list[ObjectKey]) -> None:
        self.end(self.client.submit_batch_delete([key.text() for key in keys]))

    def close(self) -> None:
        self.client.close()


class AdapterHost:
    """Drives an `L2Adapter` as LMCache does. Its keys are never locked after a call."""

    def __init__(self, adapter: Any) -> None:
        self.adapter = adapter

    def begin_load(self, keys: list[ObjectKey], memory: list[bytearray]) -> int:
        return int(self.adapter.submit_load_task(keys, [MemoryObject(each) for each in memory]))

    def end_load(self, number: int) -> list[bool]:
        assert is_readable(self.adapter.get_load_event_fd())
        answer = self.adapter.query_load_result(number)
        assert self.adapter.query_load_result(number) is None
        return list(answer.flags)

    def store(self, keys: list[ObjectKey], memory: list[bytes]) -> bool:
        number = self.adapter.submit_store_task(keys, [MemoryObject(bytearray(each)) for each in memory])
        ended: dict[int, Any] = {}
        while number not in ended:
            assert is_readable(self.adapter.get_store_event_fd())
            ended.update(self.adapter.pop_completed_store_tasks())
        return int(ended[number]) >= 0

    def look_up(self, keys: list[ObjectKey]) -> list[bool]:
        """As `exists`, and keeps the locks."""
        number = self.adapter.submit_lookup_and_lock_task(keys, {})
        while (answer := self.adapter.query_lookup_and_lock_result(number)) is None:
            assert is_readable(self.adapter.get_lookup_and_lock_event_fd())
        return list(answer.flags)

    def exists(self, keys: list[ObjectKey]) -> list[bool]:
        found = self.look_up(keys)
        self.adapter.submit_unlock(keys)
        return found

    def load(self, keys: list[ObjectKey], memory: list[bytearray]) -> list[bool]:
        number = self.begin_load(keys, memory)
        while (answer := self.adapter.query_load_result(number)) is None:
            assert is_readable(self.adapter.get_load_event_fd())
        return list(answer.flags)

    def delete(self, keys: list[ObjectKey]) -> None:
        self.adapter.delete(keys)

    def close(self) -> None:
        self.adapter.close()


Host = NativeHost | AdapterHost
