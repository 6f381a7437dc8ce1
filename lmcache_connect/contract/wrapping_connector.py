"""`WrappingConnector`: a connector around another one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

from ..errors import CorruptRecordError
from ..keys import Key
from ..loop import LoopOwner
from ..memory import HotCache, MemoryObj
from ..metadata import ChunkMetadata
from .caller_memory import Descriptions
from .connector import Documents, FactSlots, Flags, RemoteConnector, Slots
from .removal import RemovalPolicy
from .scanning import end_scan
from .server_facts import ServerFacts
from .server_state import ServerState
from .staging import Staging

T = TypeVar("T")


class WrappingConnector(RemoteConnector):
    """Does what `wrapped` does. A subclass overrides `around`, for what is to happen around every call, or a method.

    Chunks pass through as they are: nothing is copied, batches stay batches and scans stay streams. The two share one
    event loop and one arena, and closing this one closes `wrapped`. `batched_async_contains` and
    `batched_get_non_blocking` call `batched_exists` and `batched_get`, so that a subclass sees every call.
    """

    def __init__(self, wrapped: RemoteConnector) -> None:
        super().__init__(wrapped.config, wrapped.metadata)
        self.wrapped = wrapped
        """The connector inside."""
        self.repeats_itself = wrapped.repeats_itself
        self.judges_itself = wrapped.judges_itself

    async def around(self, operation: str, keys: Sequence[Key], call: Callable[[], Awaitable[T]]) -> T:
        """Awaits `call()`, which is one operation of the connector inside on these keys, and returns its result.

        `operation` is the name of the connector's method. `scan`, `close` and the methods for announcements do not pass
        through here. An override that drops the result of `call()` releases the chunks in it.
        """
        return await call()

    async def exists(self, key: Key) -> bool:
        """Passes the call through. See `RemoteConnector`."""
        return await self.around("exists", (key,), lambda: self.wrapped.exists(key))

    async def get(self, key: Key) -> MemoryObj | None:
        """Passes the call through. See `RemoteConnector`."""
        return await self.around("get", (key,), lambda: self.wrapped.get(key))

    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        """Passes the call through. See `RemoteConnector`."""
        await self.around("put", (key,), lambda: self.wrapped.put(key, memory_obj))

    async def remove(self, key: Key) -> bool:
        """Passes the call through. See `RemoteConnector`."""
        return await self.around("remove", (key,), lambda: self.wrapped.remove(key))

    async def batched_remove(self, keys: Sequence[Key]) -> Flags:
        """Passes the call through. See `RemoteConnector`."""
        return await self.around("batched_remove", keys, lambda: self.wrapped.batched_remove(keys))

    async def list(self) -> list[str]:
        """Passes the call through. See `RemoteConnector`."""
        return await self.around("list", (), self.wrapped.list)

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        """Passes the call through. See `RemoteConnector`."""
        names = self.wrapped.scan(prefix)
        try:
            async for name in names:
                yield name
        finally:
            await end_scan(names)

    async def scan_outdated(self, prefix: str = "") -> AsyncIterator[str]:
        """Passes the call through. See `RemoteConnector`."""
        names = self.wrapped.scan_outdated(prefix)
        try:
            async for name in names:
                yield name
        finally:
            await end_scan(names)

    async def remove_outdated(self, names: Sequence[str]) -> int:
        """Passes the call through. See `RemoteConnector`."""
        return await self.wrapped.remove_outdated(names)

    async def describe(self, keys: Sequence[Key], *, records: bool = False) -> FactSlots:
        """Passes the call through. See `RemoteConnector`.

        A subclass with a `get` of its own may change chunks on their way: what is stored then says nothing of them, and
        the default of `RemoteConnector` answers.
        """
        if not self._leaves("get", "batched_get"):
            return await super().describe(keys, records=records)
        return await self.around("describe", keys, lambda: self.wrapped.describe(keys, records=records))

    def support_expiry(self) -> bool:
        """Whether the connector inside can tell its store when to forget a chunk."""
        return self.wrapped.support_expiry()

    async def expire(self, keys: Sequence[Key], ttls: Sequence[float]) -> Flags:
        """Passes the call through. See `RemoteConnector`."""
        return await self.around("expire", keys, lambda: self.wrapped.expire(keys, ttls))

    async def ping(self) -> int:
        """Passes the call through. See `RemoteConnector`."""
        return await self.around("ping", (), self.wrapped.ping)

    def support_ping(self) -> bool:
        """Whether the connector inside can ask its store."""
        return self.wrapped.support_ping()

    def support_announcements(self) -> bool:
        """Whether the connector inside can keep announcements."""
        return self.wrapped.support_announcements()

    async def announce(self, worker: str, document: bytes, ttl: float) -> None:
        """Passes the call through. See `RemoteConnector`."""
        await self.wrapped.announce(worker, document, ttl)

    async def withdraw(self, worker: str) -> None:
        """Passes the call through. See `RemoteConnector`."""
        await self.wrapped.withdraw(worker)

    async def announced(self) -> Documents:
        """Passes the call through. See `RemoteConnector`."""
        return await self.wrapped.announced()

    async def batched_exists(self, keys: Sequence[Key]) -> Flags:
        """Passes the call through. See `RemoteConnector`."""
        return await self.around("batched_exists", keys, lambda: self.wrapped.batched_exists(keys))

    async def batched_get(self, keys: Sequence[Key]) -> Slots:
        """Passes the call through. See `RemoteConnector`."""
        return await self.around("batched_get", keys, lambda: self.wrapped.batched_get(keys))

    async def batched_put(self, keys: Sequence[Key], memory_objs: Sequence[MemoryObj]) -> None:
        """Passes the call through. See `RemoteConnector`."""
        await self.around("batched_put", keys, lambda: self.wrapped.batched_put(keys, memory_objs))

    # A subclass that changes chunks on their way, by its own `get` and `put`, must see those for other memory as well.

    async def get_into(self, key: Key, buffer: Any, metadata: ChunkMetadata | None = None) -> bool:
        """Passes the call through, unless the subclass has a `get` of its own. See `RemoteConnector`."""
        if not self._leaves("get", "batched_get", "batched_get_into"):
            return await super().get_into(key, buffer, metadata)
        return await self.around("get_into", (key,), lambda: self.wrapped.get_into(key, buffer, metadata))

    async def put_from(self, key: Key, buffer: Any, metadata: ChunkMetadata | None = None) -> bool:
        """Passes the call through, unless the subclass has a `put` of its own. See `RemoteConnector`."""
        if not self._leaves("put", "batched_put", "batched_put_from"):
            return await super().put_from(key, buffer, metadata)
        return await self.around("put_from", (key,), lambda: self.wrapped.put_from(key, buffer, metadata))

    async def batched_get_into(
        self, keys: Sequence[Key], buffers: Sequence[Any], metadata: Descriptions = None
    ) -> Flags:
        """Passes the call through, unless the subclass has a `get` of its own. See `RemoteConnector`."""
        if not self._leaves("get", "batched_get"):
            return await super().batched_get_into(keys, buffers, metadata)
        return await self.around(
            "batched_get_into", keys, lambda: self.wrapped.batched_get_into(keys, buffers, metadata)
        )

    async def batched_put_from(
        self, keys: Sequence[Key], buffers: Sequence[Any], metadata: Descriptions = None
    ) -> Flags:
        """Passes the call through, unless the subclass has a `put` of its own. See `RemoteConnector`."""
        if not self._leaves("put", "batched_put"):
            return await super().batched_put_from(keys, buffers, metadata)
        return await self.around(
            "batched_put_from", keys, lambda: self.wrapped.batched_put_from(keys, buffers, metadata)
        )

    def servers(self) -> Sequence[ServerState]:
        """The servers of the connector inside."""
        return self.wrapped.servers()

    async def server_facts(self) -> Sequence[ServerFacts]:
        """What the servers of the connector inside tell of themselves."""
        return await self.wrapped.server_facts()

    def find_hot_cache(self) -> HotCache | None:
        """This connector's own cache, or that of the connector inside. See `RemoteConnector`."""
        own = self.own_hot_cache()
        return own if own is not None else self.wrapped.find_hot_cache()

    def reshape_partial_chunk(self, memory_obj: MemoryObj, bytes_read: int) -> MemoryObj:
        """Passes the call through. See `RemoteConnector`."""
        return self.wrapped.reshape_partial_chunk(memory_obj, bytes_read)

    async def discard_corrupt(self, key: Key, error: CorruptRecordError) -> None:
        """Passes the call through. See `RemoteConnector`."""
        await self.wrapped.discard_corrupt(key, error)

    async def remove_damaged(self, key: Key, error: CorruptRecordError) -> bool:
        """Passes the call through. See `RemoteConnector`."""
        return await self.around("remove_damaged", (key,), lambda: self.wrapped.remove_damaged(key, error))

    async def close(self) -> None:
        """Closes the connector inside."""
        await self.wrapped.close()

    def _attach(
        self,
        owner: LoopOwner,
        on_corrupt: Callable[[CorruptRecordError], None],
        removals: RemovalPolicy,
        staging: Staging,
    ) -> None:
        super()._attach(owner, on_corrupt, removals, staging)
        self.wrapped._attach(owner, on_corrupt, removals, staging)

    def _leaves(self, *methods: str) -> bool:
        """Whether this class lets these methods be."""
        return all(getattr(type(self), name) is getattr(WrappingConnector, name) for name in methods)
