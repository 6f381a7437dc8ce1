"""`WrappingConnector`: a connector around another one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from ..errors import CorruptRecordError
from ..keys import Key
from ..loop import LoopOwner
from ..memory import MemoryObj
from .connector import Documents, Flags, RemoteConnector, Slots
from .scanning import end_scan

T = TypeVar("T")


class WrappingConnector(RemoteConnector):
    """Does what `wrapped` does. A subclass overrides `around` for what is to happen around every call, or a method.

    Chunks pass through as they are: nothing is copied, batches stay batches and scans stay streams. The two share one
    event loop, one arena and one end. `batched_async_contains` and `batched_get_non_blocking` are made of
    `batched_exists` and `batched_get`, so that nothing passes by a subclass.
    """

    def __init__(self, wrapped: RemoteConnector) -> None:
        super().__init__(wrapped.config, wrapped.metadata)
        self.wrapped = wrapped
        """The connector inside."""

    async def around(self, operation: str, keys: Sequence[Key], call: Callable[[], Awaitable[T]]) -> T:
        """What `call()` gives, which is one operation of the connector inside, by its method's name, on these keys.

        Not asked for `scan`, which is no single call, for `close`, and for announcements, which are no
        operations. Whoever drops what `call()` gave gives its references back.
        """
        return await call()

    async def exists(self, key: Key) -> bool:
        """As the connector inside does it."""
        return await self.around("exists", (key,), lambda: self.wrapped.exists(key))

    async def get(self, key: Key) -> MemoryObj | None:
        """As the connector inside does it."""
        return await self.around("get", (key,), lambda: self.wrapped.get(key))

    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        """As the connector inside does it."""
        await self.around("put", (key,), lambda: self.wrapped.put(key, memory_obj))

    async def remove(self, key: Key) -> bool:
        """As the connector inside does it."""
        return await self.around("remove", (key,), lambda: self.wrapped.remove(key))

    async def batched_remove(self, keys: Sequence[Key]) -> Flags:
        """As the connector inside does it."""
        return await self.around("batched_remove", keys, lambda: self.wrapped.batched_remove(keys))

    async def list(self) -> list[str]:
        """As the connector inside does it."""
        return await self.around("list", (), self.wrapped.list)

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        """As the connector inside does it."""
        names = self.wrapped.scan(prefix)
        try:
            async for name in names:
                yield name
        finally:
            await end_scan(names)

    async def ping(self) -> int:
        """As the connector inside does it."""
        return await self.around("ping", (), self.wrapped.ping)

    def support_ping(self) -> bool:
        """Whether the connector inside can ask its store."""
        return self.wrapped.support_ping()

    def support_announcements(self) -> bool:
        """Whether the connector inside can keep announcements."""
        return self.wrapped.support_announcements()

    async def announce(self, worker: str, document: bytes, ttl: float) -> None:
        """As the connector inside does it."""
        await self.wrapped.announce(worker, document, ttl)

    async def withdraw(self, worker: str) -> None:
        """As the connector inside does it."""
        await self.wrapped.withdraw(worker)

    async def announced(self) -> Documents:
        """As the connector inside does it."""
        return await self.wrapped.announced()

    async def batched_exists(self, keys: Sequence[Key]) -> Flags:
        """As the connector inside does it."""
        return await self.around("batched_exists", keys, lambda: self.wrapped.batched_exists(keys))

    async def batched_get(self, keys: Sequence[Key]) -> Slots:
        """As the connector inside does it."""
        return await self.around("batched_get", keys, lambda: self.wrapped.batched_get(keys))

    async def batched_put(self, keys: Sequence[Key], memory_objs: Sequence[MemoryObj]) -> None:
        """As the connector inside does it."""
        await self.around("batched_put", keys, lambda: self.wrapped.batched_put(keys, memory_objs))

    def reshape_partial_chunk(self, memory_obj: MemoryObj, bytes_read: int) -> MemoryObj:
        """As the connector inside does it."""
        return self.wrapped.reshape_partial_chunk(memory_obj, bytes_read)

    async def discard_corrupt(self, key: Key, error: CorruptRecordError) -> None:
        """As the connector inside does it."""
        await self.wrapped.discard_corrupt(key, error)

    async def close(self) -> None:
        """Closes the connector inside."""
        await self.wrapped.close()

    def _attach(self, owner: LoopOwner, on_corrupt: Callable[[str, CorruptRecordError], None]) -> None:
        super()._attach(owner, on_corrupt)
        self.wrapped._attach(owner, on_corrupt)
