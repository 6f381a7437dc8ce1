"""This toolkit's own contenders: the Redis connector, and the simple one on redis-py."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import ClassVar, Final

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, MemoryObj, RemoteConnector
from lmcache_connect.memory import release_all
from lmcache_reference_connectors.redis import RedisReferenceConnector

from .contender import Contender

_OPERATION_TIMEOUT: Final = 120.0


class _OnOurMemory(Contender):
    """A connector whose chunks live in the toolkit's arena."""

    def __init__(self) -> None:
        self._resources = AsyncExitStack()
        self._chunk_bytes = 0
        self.staged: list[MemoryObj] = []
        self._received: Sequence[MemoryObj | None] = ()

    async def open(self, url: str, chunk_bytes: int, chunks: int) -> None:
        self._chunk_bytes = chunk_bytes
        # Twice, for what is put and what is got, and a little for the arena's rounding up.
        room = (2 * chunks + 4) * (chunk_bytes + (64 << 10))
        self.backend = self._resources.enter_context(LocalCPUBackend(room, prefault=True))
        self.connector = await self._connect(url)

    async def _connect(self, url: str) -> RemoteConnector:
        raise NotImplementedError

    def stage(self, payloads: Sequence[bytes]) -> None:
        release_all([*self.staged])
        self.staged = []
        for payload in payloads:
            obj = self.backend.allocate((self._chunk_bytes,), "uint8")
            if obj is None:
                raise MemoryError(f"{self.name}: the arena has no room for {len(payloads)} chunks")
            obj.byte_array[:] = payload
            self.staged.append(obj)

    async def put(self, keys: Sequence[str]) -> None:
        await self.connector.batched_put(keys, self.staged[: len(keys)])

    async def get(self, keys: Sequence[str]) -> None:
        self._received = await self.connector.batched_get(keys)

    async def get_one(self, key: str) -> None:
        self._received = [await self.connector.get(key)]

    def received(self) -> list[memoryview | None]:
        return [None if obj is None else obj.byte_array for obj in self._received]

    def release(self) -> None:
        release_all(list(self._received))
        self._received = ()

    async def exists(self, keys: Sequence[str]) -> list[bool]:
        return await self.connector.batched_exists(keys)

    async def close(self) -> None:
        self.release()
        release_all([*self.staged])
        self.staged = []
        await self._resources.aclose()


class Connect(_OnOurMemory):
    """The Redis connector as an application uses it: through a manager, with checksums."""

    name: ClassVar[str] = "Connect"
    options: ClassVar[dict[str, str]] = {}
    """Options that are added to the URL."""

    async def _connect(self, url: str) -> RemoteConnector:
        config = ConnectorConfig.load(operation_timeout=_OPERATION_TIMEOUT)
        query = "&".join(f"{name}={value}" for name, value in self.options.items())
        if query:
            url += ("&" if "?" in url else "?") + query
        manager = ConnectorManager(url, local_cpu_backend=self.backend, config=config)
        return (await self._resources.enter_async_context(manager)).create_connector()


class ConnectUnchecked(Connect):
    """Without checksums: the difference is the cost of verifying."""

    name: ClassVar[str] = "Connect, no checksum"
    options: ClassVar[dict[str, str]] = {"checksum": "false"}


class Plain(_OnOurMemory):
    """The simple connector on redis-py from `reference_connectors/`."""

    name: ClassVar[str] = "plain redis-py"

    async def _connect(self, url: str) -> RemoteConnector:
        connector = RedisReferenceConnector(url, self.backend)
        self._resources.push_async_callback(connector.close)
        return connector
