"""A store in memory whose calls a test can hold, fail and count, and a manager with a hot cache in front of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from lmcache_connect import ConnectorContext, ConnectorOptions, LocalCPUBackend, MemoryObj, RemoteConnector
from lmcache_connect.contract import ConnectorAdapter, operation_under_way
from lmcache_connect.keys import Key, key_string
from lmcache_connect.metadata import ChunkMetadata
from lmcache_connect_composition.hot_adapter import HotConnectorAdapter

NBYTES: Final = 4096


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Store:
    """The chunks that several connectors share, and what is to happen to calls."""

    def __init__(self) -> None:
        self.chunks: dict[str, bytes] = {}
        self.asked: Counter[str] = Counter()
        """How often the store was asked, by operation, counted in keys."""
        self.batches: list[tuple[str, ...]] = []
        """The keys of each `batched_get`."""
        self.gates: dict[str, asyncio.Event] = {}
        """Calls of these operations wait here, after the store has read and before it writes."""
        self.failure: Exception | None = None
        """What every call raises."""
        self.cancelled = 0
        self.deadlines: list[float] = []
        """When the operation under way had to end, before and after the gate of each `get`."""

    def hold(self, operation: str) -> asyncio.Event:
        """Has calls of the operation wait until the event is set."""
        self.gates[operation] = asyncio.Event()
        return self.gates[operation]

    def note_deadline(self) -> None:
        """Adds to `deadlines`."""
        operation = operation_under_way.get()
        assert operation is not None
        self.deadlines.append(operation.deadline)

    async def pass_gate(self, operation: str) -> None:
        """Waits where the operation is held, and then fails if calls are to fail."""
        if (gate := self.gates.get(operation)) is not None:
            try:
                await gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if self.failure is not None:
            raise self.failure


class HeldConnector(RemoteConnector):
    """One connector of the store."""

    def __init__(self, context: ConnectorContext, store: Store) -> None:
        super().__init__(context.config, context.metadata)
        self.context = context
        self.store = store

    async def exists(self, key: Key) -> bool:
        self.store.asked["exists"] += 1
        found = key_string(key) in self.store.chunks
        await self.store.pass_gate("exists")
        return found

    async def get(self, key: Key) -> MemoryObj | None:
        self.store.asked["get"] += 1
        found = self.store.chunks.get(key_string(key))
        self.store.note_deadline()
        await self.store.pass_gate("get")
        self.store.note_deadline()
        return None if found is None else await self._received(found)

    async def batched_get(self, keys: Sequence[Key]) -> list[MemoryObj | None]:
        self.store.batches.append(tuple(map(key_string, keys)))
        found = [self.store.chunks.get(key_string(key)) for key in keys]
        await self.store.pass_gate("batched_get")
        return [None if data is None else await self._received(data) for data in found]

    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        self.store.asked["put"] += 1
        await self.store.pass_gate("put")
        self.store.chunks[key_string(key)] = bytes(memory_obj.byte_array)

    async def remove(self, key: Key) -> bool:
        self.store.asked["remove"] += 1
        await self.store.pass_gate("remove")
        return self.store.chunks.pop(key_string(key), None) is not None

    async def list(self) -> list[str]:
        return [*self.store.chunks]

    async def close(self) -> None:
        pass

    async def _received(self, data: bytes) -> MemoryObj:
        backend = self.context.local_cpu_backend
        obj = await backend.allocate_chunk_async(ChunkMetadata.of((len(data),), "uint8"), timeout=1)
        obj.byte_array[:] = data
        return obj


class HeldOptions(ConnectorOptions):
    ttl: float | None = None


def held_adapter(store: Store) -> ConnectorAdapter:
    """Makes connectors of this store for `held://`."""

    class HeldAdapter(ConnectorAdapter):
        schema = "held://"
        options = HeldOptions

        def create_connector(self, context: ConnectorContext) -> RemoteConnector:
            return HeldConnector(context, store)

    return HeldAdapter()


def hot_adapter(told: Callable[[], float]) -> ConnectorAdapter:
    """`hot+<scheme>://`, on another clock."""

    class ClockedAdapter(HotConnectorAdapter):
        def clock(self) -> float:
            return told()

    return ClockedAdapter()


def chunk(backend: LocalCPUBackend, text: bytes, nbytes: int = NBYTES) -> MemoryObj:
    """A chunk that begins with `text`."""
    obj = backend.allocate((nbytes,), "uint8")
    assert obj is not None
    obj.byte_array[:] = text.ljust(nbytes, b".")
    return obj


def stored(text: bytes, nbytes: int = NBYTES) -> bytes:
    """What the store holds of such a chunk."""
    return text.ljust(nbytes, b".")


def text_of(obj: MemoryObj | None) -> bytes | None:
    """What a chunk begins with, up to its padding. Releases it."""
    if obj is None:
        return None
    with obj:
        return bytes(obj.byte_array).rstrip(b".")
