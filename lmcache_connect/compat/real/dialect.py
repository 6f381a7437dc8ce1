"""`RealDialect`: how a guest is spoken to where LMCache is installed. Needs LMCache and torch."""

from __future__ import annotations

from typing import Any, ClassVar

from ...keys import Key
from ...metadata import CacheMetadata
from ..lmcache_dialect import LMCacheDialect
from .backend import RealBackend
from .executors import make_shutdown_awaitable, uses_an_executor
from .keys import lmcache_key
from .metadata import GroupedModel, UnknownModel

# ruff: isort: split
import torch
from lmcache.v1.config import LMCacheEngineConfig
from lmcache.v1.memory_management import MemoryObj as LMCacheMemoryObj
from lmcache.v1.metadata import LMCacheMetadata
from lmcache.v1.storage_backend.connector import ConnectorContext as LMCacheContext


class RealDialect(LMCacheDialect):
    """Gives a guest instances of LMCache's own classes."""

    other_memory: ClassVar[type[Any]] = LMCacheMemoryObj

    def make_backend(self) -> RealBackend:
        return RealBackend(self.toolkit_context, self.config, self.metadata)

    def make_context(self) -> Any:
        given = self.toolkit_context
        return LMCacheContext(
            given.url, given.loop, self.local_cpu_backend, self.config, self.metadata, given.plugin_name
        )

    def make_config(self, **settings: Any) -> Any:
        return LMCacheEngineConfig.from_defaults(**settings)

    def make_metadata(self, model: CacheMetadata, **fields: Any) -> Any:
        made = LMCacheMetadata(kv_dtype=getattr(torch, model.kv_dtype.torch_name), **fields)
        return GroupedModel(made, model) if model.groups else made

    def unknown_model(self) -> Any:
        return UnknownModel()

    def key(self, key: Key) -> Any:
        return lmcache_key(key)

    def outlives_cancellation(self, connector: Any) -> bool:
        """Whether the connector works through one of LMCache's executors.

        A worker of an executor ends for good when the caller that it serves is cancelled. An executor has four.
        """
        return uses_an_executor(connector)

    def before_close(self, connector: Any) -> None:
        """Makes the connector's `close` end its executors without blocking the event loop."""
        make_shutdown_awaitable(connector)
