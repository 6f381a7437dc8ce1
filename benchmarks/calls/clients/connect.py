"""`Connect` and `ConnectBlocking`: this toolkit through its manager, checksums on, with the options' defaults."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack, ExitStack
from typing import Any, ClassVar, Final

# A base checkout runs this file, and has to have what it imports.
from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector, MemoryObj

from .client import AsyncClient, BlockingClient, Client

TIMEOUT: Final = 60.0
"""Seconds that one operation may take: a deadline, as every call has one, that a busy machine does not reach."""


class _OnOurMemory(Client):
    """Chunks in an arena whose pages were touched before."""

    name: ClassVar[str] = "ours"
    connector: ManagedConnector
    backend: LocalCPUBackend

    def stage(self, payload: bytes) -> MemoryObj:
        obj = self.backend.allocate((len(payload),), "uint8")
        if obj is None:
            raise MemoryError(f"the arena has no room for a chunk of {len(payload)} bytes")
        obj.byte_array[:] = payload
        return obj

    def received(self, value: MemoryObj) -> bytes:
        return bytes(value.byte_array)

    def release(self, value: MemoryObj) -> None:
        value.ref_count_down()

    def _manager(self, url: str, room: int, stack: AsyncExitStack | ExitStack) -> ConnectorManager:
        self.backend = stack.enter_context(LocalCPUBackend(room, prefault=True))
        return ConnectorManager(url, None, self.backend, ConnectorConfig.load(operation_timeout=TIMEOUT))


class Connect(_OnOurMemory, AsyncClient):
    """The managed connector."""

    async def open(self, url: str, room: int, stack: AsyncExitStack) -> None:
        self.connector = (await stack.enter_async_context(self._manager(url, room, stack))).create_connector()

    def exists(self, key: str) -> Awaitable[bool]:
        return self.connector.exists(key)

    def get(self, key: str) -> Awaitable[MemoryObj | None]:
        return self.connector.get(key)

    def put(self, key: str, staged: MemoryObj) -> Awaitable[None]:
        return self.connector.put(key, staged)

    async def batched_exists(self, keys: Sequence[str]) -> list[bool]:
        """One batch."""
        return list(await self.connector.batched_exists(keys))

    async def batched_get(self, keys: Sequence[str]) -> list[Any]:
        """One batch."""
        return list(await self.connector.batched_get(keys))

    async def batched_put(self, keys: Sequence[str], staged: Sequence[MemoryObj]) -> None:
        """One batch."""
        await self.connector.batched_put(keys, staged)

    async def batched_get_into(self, keys: Sequence[str], memory: Sequence[Any]) -> list[bool]:
        """One batch, into memory of the caller."""
        return list(await self.connector.batched_get_into(keys, memory))

    async def batched_put_from(self, keys: Sequence[str], memory: Sequence[Any]) -> list[bool]:
        """One batch, from memory of the caller."""
        return list(await self.connector.batched_put_from(keys, memory))


class ConnectBlocking(_OnOurMemory, BlockingClient):
    """`connector.sync`."""

    def open(self, url: str, room: int, threads: int, stack: ExitStack) -> None:
        self.connector = stack.enter_context(self._manager(url, room, stack)).create_connector()

    def exists(self, key: str) -> bool:
        return self.connector.sync.exists(key)

    def get(self, key: str) -> MemoryObj | None:
        return self.connector.sync.get(key)

    def put(self, key: str, staged: MemoryObj) -> None:
        self.connector.sync.put(key, staged)
