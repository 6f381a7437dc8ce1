"""An adapter for LMCache's own plug-in framework, which runs this toolkit's connectors inside LMCache.

    remote_storage_plugins: ["connect"]
    extra_config:
      remote_storage_plugin.connect.module_path: lmcache_connect.engines.lmcache.plugin
      remote_storage_plugin.connect.class_name: ConnectAdapter
      remote_storage_plugin.connect.url: redis://store:6379?ttl=86400

Chunks are received straight into LMCache's own memory, pinned or not, and sent from it. Written for LMCache 0.5.6.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ...config import ConnectorConfig
from ...errors import (
    BackendClosedError,
    ConnectorClosedError,
    LMCacheConnectError,
    ReleasedObjectError,
)
from ...foreign import settings_of
from ...managed import ManagedConnector
from ...manager import ConnectorManager
from ...metadata import CacheMetadata
from ...observability import event
from ..engine_memory import EngineMemoryObj
from ..memory_guard import MemoryGuard
from ..store_url import store_url

# Before the imports of LMCache, because it says what is missing where LMCache is not installed.
from .inside_names import name_of
from .memory import LMCacheMemory

# ruff: isort: split
from lmcache.v1.storage_backend.connector import ConnectorAdapter, ConnectorContext
from lmcache.v1.storage_backend.connector.base_connector import RemoteConnector

PLUGIN_TYPE: Final = "connect"

_SCHEME: Final = "plugin://"
_PLACES: Final = frozenset({"module_path", "class_name", "url"})
_PING_FAILED: Final = 1

_CLOSED: Final = (BackendClosedError, ConnectorClosedError, ReleasedObjectError)
"""What an operation raises that LMCache's closing has ended."""

_DEFAULTS: Final[Mapping[str, Any]] = {
    # A cache must never be worse than no cache: the engine computes what it does not get.
    "errors": "miss",
    # LMCache does not announce that memory became free, so a long wait for it seldom pays.
    "allocate_timeout": 0.5,
    # A synchronous call holds up a thread of the engine.
    "sync_timeout": 10.0,
}


class ConnectAdapter(ConnectorAdapter):  # type: ignore[misc]
    """Makes connectors for `plugin://connect` and `plugin://connect.<instance>`."""

    def __init__(self) -> None:
        super().__init__(f"{_SCHEME}{PLUGIN_TYPE}")

    def can_parse(self, url: str) -> bool:
        """Whether the URL names a plug-in of this type: `connect`, or an instance of it."""
        return url.startswith(_SCHEME) and url[len(_SCHEME) :].partition(".")[0] == PLUGIN_TYPE

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        """Makes a connector for the URL that LMCache's `extra_config` gives. It connects on first use.

        Raises:
            InvalidConfigError: there is no URL, or `ConnectorConfig` does not know a setting.
            InvalidURLError, AdapterLoadError: no connector can be made for the URL.
        """
        name = context.plugin_name or context.url.removeprefix(_SCHEME)
        own = settings_of(name, getattr(context.config, "extra_config", None) or {})
        settings = ConnectorConfig.load(
            **{**_DEFAULTS, **{key: value for key, value in own.items() if key not in _PLACES}}
        )
        url = store_url(own.get("url"), f"remote_storage_plugin.{name}.url", "extra_config")
        return InsideConnector(context, url, settings)


class InsideConnector(RemoteConnector):  # type: ignore[misc]
    """A connector of this toolkit behind LMCache's connector contract.

    Deadlines, retries, the circuit breaker and the byte budget are the managed connector's. A get that fails is a
    miss, and a put that fails is dropped. Batches have one slot per key, as LMCache expects.
    """

    def __init__(self, context: ConnectorContext, url: str, settings: ConnectorConfig) -> None:
        if context.metadata is not None:
            super().__init__(context.config, context.metadata)
        metadata = _toolkit_metadata(context.metadata)
        capacity = int(float(getattr(context.config, "max_local_cpu_size", 0) or 0) * (1 << 30))
        self.memory: Final = LMCacheMemory(context.local_cpu_backend, capacity, metadata)
        """LMCache's memory, which the connector receives into."""
        self.manager: Final = ConnectorManager(url, context.loop, self.memory, settings, metadata)
        """The manager that made the connector."""
        self.connector: Final[ManagedConnector] = self.manager.create_connector()
        """The connector of this toolkit."""
        self._guard = MemoryGuard(self.memory, context.loop, self.manager.close, self.manager.settings.close_grace)
        if context.local_cpu_backend is not None:  # LMCache closes its memory before it closes this connector
            self._guard.watch(context.local_cpu_backend.memory_allocator, "close")
        self._has_told_of_drops = False

    # ------------------------------------------------------------------------------------------------ one chunk

    async def exists(self, key: Any) -> bool:
        """Whether the store holds the chunk."""
        return await self.connector.exists(name_of(key))

    def exists_sync(self, key: Any) -> bool:
        """`exists` for a thread without an event loop."""
        return self.connector.exists_sync(name_of(key))

    async def get(self, key: Any) -> Any:
        """Returns LMCache's object with a reference for the caller, or None for a miss."""
        return (await self.batched_get([key]))[0]

    async def put(self, key: Any, memory_obj: Any) -> None:
        """Stores the chunk. The caller keeps its reference, and LMCache 0.5.6 releases it."""
        await self.batched_put([key], [memory_obj])

    def remove_sync(self, key: Any) -> bool:
        """Removes the chunk. Returns whether it was there. For a thread without an event loop."""
        return self.connector.remove_sync(name_of(key))

    # -------------------------------------------------------------------------------------------------- batches

    def support_batched_get(self) -> bool:
        """Returns True."""
        return True

    async def batched_get(self, keys: Sequence[Any]) -> list[Any]:
        """Returns one slot per key, in order: LMCache's object with a reference for the caller, or None for a miss."""
        try:
            found = await self.connector.batched_get(_names(keys))
        except _CLOSED:
            if not self._is_closing():
                raise
            return [None] * len(keys)
        return [_handed_over(obj) for obj in found]

    def support_batched_put(self) -> bool:
        """Returns True."""
        return True

    async def batched_put(self, keys: Sequence[Any], memory_objs: Sequence[Any]) -> None:
        """Stores every chunk. When this returns or raises, nothing touches their memory any more.

        What LMCache puts while it closes is dropped.
        """
        borrowed: list[EngineMemoryObj] = []
        try:
            borrowed.extend(self.memory.borrowed_from(theirs) for theirs in memory_objs)
            await self.connector.batched_put(_names(keys), borrowed)
        except _CLOSED:
            if not self._is_closing():
                raise
            if not self._has_told_of_drops:
                self._has_told_of_drops = True
                event(logging.WARNING, "puts_dropped_at_close", store=self.connector.store)
        finally:
            for obj in borrowed:
                obj.ref_count_down()

    def support_batched_contains(self) -> bool:
        """Returns True."""
        return True

    def batched_contains(self, keys: Sequence[Any]) -> int:
        """Returns how many of the first keys are there without a gap. For a thread without an event loop."""
        return self.connector.batched_contains(_names(keys))

    async def batched_async_contains(self, lookup_id: str, keys: Sequence[Any], pin: bool = False) -> int:
        """Returns how many of the first keys are there without a gap."""
        return await self.connector.batched_async_contains(lookup_id, _names(keys), pin)

    async def batched_get_non_blocking(self, lookup_id: str, keys: Sequence[Any]) -> list[Any]:
        """Returns the chunks up to the first miss, each with a reference for the caller."""
        try:
            found = await self.connector.batched_get_non_blocking(lookup_id, _names(keys))
        except _CLOSED:
            if not self._is_closing():
                raise
            return []
        return [_handed_over(obj) for obj in found]

    # ------------------------------------------------------------------------------------------------- the store

    async def list(self) -> list[str]:
        """Every key in the store."""
        return await self.connector.list()

    def support_ping(self) -> bool:
        """Whether the store can be asked for its health."""
        return self.connector.support_ping()

    async def ping(self) -> int:
        """Returns 0 when the store answers, and 1 when it does not."""
        try:
            return await self.connector.ping()
        except LMCacheConnectError:  # the connector has told it
            return _PING_FAILED

    async def close(self) -> None:
        """Closes the connector in bounded time. Idempotent."""
        await self.manager.close()
        self.memory.close()
        if not self.memory.touched:
            self._guard.end()

    def _is_closing(self) -> bool:
        return self.memory.is_closed or self.connector.is_closed

    def __repr__(self) -> str:
        return f"InsideConnector({self.connector!r})"


def _names(keys: Sequence[Any]) -> list[str]:
    return [name_of(key) for key in keys]


def _handed_over(obj: Any) -> Any:
    return None if obj is None else obj.handed_over()


def _toolkit_metadata(theirs: Any) -> CacheMetadata | None:
    if theirs is None:
        return None
    try:
        return CacheMetadata(
            theirs.model_name,
            theirs.world_size,
            theirs.worker_id,
            theirs.kv_dtype,
            tuple(theirs.kv_shape),
            use_mla=theirs.use_mla,
            chunk_size=theirs.chunk_size,
        )
    except (LMCacheConnectError, TypeError) as error:  # it is used for deadlines and budgets alone
        event(logging.WARNING, "unknown_model", error=str(error))
        return None
