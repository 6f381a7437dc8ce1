"""`ShimDialect`: how a guest is spoken to where LMCache is not installed."""

from __future__ import annotations

from typing import Any, ClassVar

from ...metadata import CacheMetadata
from ..lmcache_dialect import LMCacheDialect
from ..shapes import dtype_as_seen
from .adapter import ConnectorContext as ShimContext
from .backend import LocalCPUBackend
from .config import LMCacheEngineConfig
from .memory import BytesBufferMemoryObj
from .metadata import LMCacheMetadata


class ShimDialect(LMCacheDialect):
    """Gives a guest instances of the classes in this package."""

    other_memory: ClassVar[type[Any]] = BytesBufferMemoryObj

    def make_backend(self) -> LocalCPUBackend:
        return LocalCPUBackend(self.toolkit_context, self.config, self.metadata)

    def make_context(self) -> Any:
        given = self.toolkit_context
        return ShimContext(
            given.url,
            given.loop,
            self.local_cpu_backend,
            self.config,
            self.metadata,
            given.plugin_name,
            original=given,
        )

    def make_config(self, **settings: Any) -> Any:
        return LMCacheEngineConfig.of(self.toolkit_context.config, **settings)

    def make_metadata(self, model: CacheMetadata, **fields: Any) -> Any:
        return LMCacheMetadata(kv_dtype=dtype_as_seen(model.kv_dtype), groups=model.groups, **fields)
