"""`blackhole://`: a store that keeps nothing, to measure an engine without hits and what putting costs it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from lmcache_connect import ConnectorAdapter, ConnectorContext, ConnectorOptions, Key, MemoryObj, RemoteConnector
from lmcache_connect.contract import CallerMemory, Descriptions, Flags, Slots
from lmcache_connect.errors import InvalidArgumentError


class BlackholeConnector(RemoteConnector):
    """Takes every chunk and forgets it: `get` is a miss, `exists` and `remove` are False, there are no keys."""

    async def exists(self, key: Key) -> bool:
        """False."""
        return False

    async def get(self, key: Key) -> MemoryObj | None:
        """None."""
        return None

    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        """Does nothing."""

    async def remove(self, key: Key) -> bool:
        """False."""
        return False

    async def list(self) -> list[str]:
        """No keys."""
        return []

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        """No keys."""
        names: tuple[str, ...] = ()
        for name in names:
            yield name

    async def batched_exists(self, keys: Sequence[Key]) -> Flags:
        """False for each."""
        return [False] * len(keys)

    async def batched_get(self, keys: Sequence[Key]) -> Slots:
        """None for each."""
        return [None] * len(keys)

    async def batched_put(self, keys: Sequence[Key], memory_objs: Sequence[MemoryObj]) -> None:
        """Does nothing."""
        if len(keys) != len(memory_objs):
            raise InvalidArgumentError("memory_objs", f"{len(memory_objs)} objects for {len(keys)} keys")

    async def batched_get_into(
        self, keys: Sequence[Key], buffers: Sequence[Any], metadata: Descriptions = None
    ) -> Flags:
        """False for each."""
        with CallerMemory.of(keys, buffers, metadata, writable=True):
            return [False] * len(keys)

    async def batched_put_from(
        self, keys: Sequence[Key], buffers: Sequence[Any], metadata: Descriptions = None
    ) -> Flags:
        """False for each: nothing is stored."""
        with CallerMemory.of(keys, buffers, metadata, writable=False):
            return [False] * len(keys)

    async def close(self) -> None:
        """Does nothing."""


class BlackholeConnectorAdapter(ConnectorAdapter):
    """`blackhole://`. A host in the URL is ignored."""

    schema = "blackhole://"
    options = ConnectorOptions

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        """A store that keeps nothing."""
        return BlackholeConnector(context.config, context.metadata)
