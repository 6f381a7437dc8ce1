"""LMCache's own Redis connectors: the classes, keys and memory of its wheel, called as its RemoteBackend calls them.

`make lmcache` installs it. What RemoteBackend puts around a connector is left out, in LMCache's favour: no serde, no
hop from another thread, and no `InstrumentedRemoteConnector`, which besides would turn a failed put into a log line.
"""

from __future__ import annotations

import asyncio
import os
from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

from .contender import Contender, MissingContenderError

CLOSE_SECONDS: Final = 10.0
"""A connector's workers have this long to end."""

_SPARE_CHUNKS: Final = 1
_PAGE: Final = 4096  # LMCache's allocator rounds a chunk up to pages


@lru_cache(maxsize=8192)
def engine_key(key: str) -> Any:
    """LMCache's key object. It is cached, because LMCache's callers have such objects and need not parse them."""
    from lmcache.utils import CacheEngineKey

    return CacheEngineKey.from_string(key)


def byte_view(memory_obj: Any) -> memoryview:
    """The bytes of a MemoryObj. Valid until the contender is closed: the view does not keep the memory alive."""
    return memoryview(memory_obj.byte_array).cast("B")


class LMCacheContender(Contender):
    """One LMCache connector on a LocalCPUBackend (a MixedMemoryAllocator) with room for what is put and what is got."""

    def __init__(self) -> None:
        self._connector: Any = None
        self._backend: Any = None
        self._metadata: Any = None
        self._staged: list[Any] = []
        self._received: list[Any] = []

    @abstractmethod
    def _url(self, url: str) -> str:
        """The benchmark's URL as this connector spells it."""

    @abstractmethod
    async def _disconnect(self, connector: Any) -> None:
        """What the connector's own `close` does after its workers have ended."""

    async def open(self, url: str, chunk_bytes: int, chunks: int) -> None:
        """Makes the backend, and the connector as `CreateConnector` does. Importing LMCache takes seconds, once."""
        # Read when LMCache is imported. It would log every step to standard error, and report its use to its makers.
        os.environ.setdefault("LMCACHE_LOG_LEVEL", "ERROR")
        os.environ["LMCACHE_TRACK_USAGE"] = "false"
        try:
            import torch
            from lmcache.v1.config import LMCacheEngineConfig
            from lmcache.v1.metadata import LMCacheMetadata
            from lmcache.v1.storage_backend.connector import CreateConnector
            from lmcache.v1.storage_backend.local_cpu_backend import LocalCPUBackend
        except ImportError as error:
            reason = f"{error.name or error} is missing"
            raise MissingContenderError(f"{self.name} needs torch and lmcache ({reason}): make lmcache") from error
        target = self._url(url)
        room = (2 * chunks + _SPARE_CHUNKS) * (-(-chunk_bytes // _PAGE) * _PAGE)
        config = LMCacheEngineConfig.from_defaults(
            chunk_size=1,
            local_cpu=False,  # no hot cache: every get goes to the store
            max_local_cpu_size=room / 2**30,
            remote_url=target,
            # What RESPConnector insists on: it stores bare payloads of one fixed size, that of a full chunk. Its
            # number of threads is "resp_num_threads", left at its default of 8. RedisConnector looks at neither.
            save_unfull_chunk=False,
            extra_config={"save_chunk_meta": False},
        )
        # One layer, one token of as many uint8 as a chunk has bytes: to a connector a shape is a number of bytes.
        self._metadata = LMCacheMetadata(
            model_name="bench",
            world_size=1,
            local_world_size=1,
            worker_id=0,
            local_worker_id=0,
            kv_dtype=torch.uint8,
            kv_shape=(1, 1, 1, 1, chunk_bytes),
            chunk_size=1,
        )
        self._backend = LocalCPUBackend(config, self._metadata, dst_device="cpu")
        loop = asyncio.get_running_loop()
        created = CreateConnector(target, loop, self._backend, config, self._metadata)
        self._connector = created.getWrappedConnector()

    def stage(self, payloads: Sequence[bytes]) -> None:
        """Allocates a MemoryObj for each, in place of what was staged before."""
        self._drop(self._staged)
        for payload in payloads:
            # Without `eviction` it gives None when there is no room, instead of waiting for ever.
            obj = self._backend.allocate(self._metadata.get_shapes(), self._metadata.get_dtypes(), eviction=False)
            if obj is None:
                raise MemoryError(f"{self.name}: no room for {len(payloads)} chunks of {len(payload)} bytes")
            byte_view(obj)[:] = payload
            self._staged.append(obj)

    async def put(self, keys: Sequence[str]) -> None:
        """As RemoteBackend.batched_submit_put_task, to the end."""
        await self._connector.batched_put([engine_key(key) for key in keys], self._staged[: len(keys)])

    async def get_one(self, key: str) -> None:
        """As RemoteBackend.get_blocking."""
        self.release()
        self._received = [await self._connector.get(engine_key(key))]

    def received(self) -> list[memoryview | None]:
        """Views of the MemoryObjs that the connector allocated."""
        return [None if obj is None else byte_view(obj) for obj in self._received]

    def release(self) -> None:
        """Releases the MemoryObjs to LMCache's allocator."""
        self._drop(self._received)

    @staticmethod
    def _drop(objs: list[Any]) -> None:
        for obj in objs:
            if obj is not None:
                obj.ref_count_down()
        objs.clear()

    async def close(self) -> None:
        """Closes the connector without its own `close`.

        That blocks the loop while it waits for work of the same loop (AsyncPQExecutor.shutdown), so it never returns.
        """
        self.release()
        self._drop(self._staged)
        connector, self._connector = self._connector, None
        if connector is not None:
            await asyncio.wait_for(connector.pq_executor.shutdown_async(wait=True), CLOSE_SECONDS)
            await self._disconnect(connector)
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.close()


class LMCacheRedis(LMCacheContender):
    """RedisConnector: redis-py, two keys a chunk."""

    name: ClassVar[str] = "LMCache redis://"

    def _url(self, url: str) -> str:
        return url

    async def get(self, keys: Sequence[str]) -> None:
        """As RemoteBackend.batched_get_blocking, which asks for one after the other where there is no batched get."""
        self.release()
        self._received = await asyncio.gather(*(self._connector.get(engine_key(key)) for key in keys))

    async def exists(self, keys: Sequence[str]) -> list[bool]:
        """As RemoteConnector.batched_async_contains, less the cut to a prefix."""
        found: list[bool] = await asyncio.gather(*(self._connector.exists(engine_key(key)) for key in keys))
        return found

    async def _disconnect(self, connector: Any) -> None:
        await connector.connection.aclose()


class LMCacheRESP(LMCacheContender):
    """RESPConnector: LMCache's client in C++ (`lmcache_redis`), eight threads with a connection each, one key a chunk.

    Ask it for keys that are there: a miss never answers, since its thread waits for the rest of a reply as long as the
    header of a hit.
    """

    name: ClassVar[str] = "LMCache resp://"
    database: ClassVar[int | None] = 0

    def _url(self, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme != "redis":
            raise MissingContenderError(f"{self.name} does not speak {parts.scheme}://: give it redis://host:port")
        if (database := parts.path.strip("/")) not in {"", "0"}:
            raise MissingContenderError(f"{self.name} selects no database: give it database 0, not {database}")
        return f"resp://{parts.hostname}:{parts.port or 6379}"

    async def get(self, keys: Sequence[str]) -> None:
        """As RemoteBackend.batched_get_blocking."""
        self.release()
        self._received = await self._connector.batched_get([engine_key(key) for key in keys])

    async def exists(self, keys: Sequence[str]) -> list[bool]:
        """As RESPConnector.batched_async_contains, less the cut to a prefix."""
        found: list[bool] = await self._connector.client.batch_exists([engine_key(key).to_string() for key in keys])
        return found

    async def _disconnect(self, connector: Any) -> None:
        connector.client.close()
