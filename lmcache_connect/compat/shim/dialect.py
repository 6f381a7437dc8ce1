"""`ShimDialect`: how a connector that was written for LMCache is spoken to without LMCache."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from ...config import ConnectorConfig
from ...contract import ConnectorContext
from ...foreign import Dialect
from ...memory import MemoryObj
from .adapter import ConnectorContext as ShimContext
from .backend import LocalCPUBackend
from .config import LMCacheEngineConfig
from .memory import BytesBufferMemoryObj, TensorMemoryObj
from .metadata import LMCacheMetadata


class ShimDialect(Dialect):
    """Views of this toolkit's objects, with LMCache's names."""

    def __init__(self, context: ConnectorContext) -> None:
        super().__init__(context)
        self._backend = LocalCPUBackend(context.local_cpu_backend, self.config, self.metadata)

    @cached_property
    def context(self) -> Any:
        given = self.toolkit_context
        return ShimContext(
            given.url, given.loop, self._backend, self.config, self.metadata, given.plugin_name, toolkit=given
        )

    @property
    def local_cpu_backend(self) -> Any:
        return self._backend

    @cached_property
    def config(self) -> Any:
        given = self.toolkit_context.config
        return LMCacheEngineConfig.of(self.toolkit_context) if isinstance(given, ConnectorConfig) else given

    @cached_property
    def metadata(self) -> Any:
        given = self.toolkit_context.metadata
        return None if given is None else LMCacheMetadata.of(given)

    def lend(self, obj: MemoryObj) -> Any:
        return TensorMemoryObj.lent(obj)

    async def claim(self, found: object) -> MemoryObj | None:
        if isinstance(found, TensorMemoryObj):
            return found.claimed()
        if isinstance(found, BytesBufferMemoryObj):
            return await self.copied(found.byte_array, found._metadata)
        return await super().claim(found)

    async def copied(self, payload: memoryview, metadata: Any) -> MemoryObj:
        """A chunk of the backend with the bytes of memory that is not the backend's."""
        obj = await self.toolkit_context.local_cpu_backend.allocate_chunk_async(
            metadata, timeout=self.toolkit_context.settings.allocate_timeout
        )
        obj.byte_array[:] = payload
        return obj

    @property
    def refusals(self) -> int:
        return self._backend.refusals

    async def wait_for_room(self) -> None:
        if (refused := self._backend.refused) is not None:
            obj = await self.toolkit_context.local_cpu_backend.allocate_chunk_async(
                refused, timeout=self.toolkit_context.settings.allocate_timeout
            )
            obj.ref_count_down()
