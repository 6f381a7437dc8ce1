"""`LMCacheDialect`: how a guest is spoken to, as far as it is the same with LMCache and without it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from ..computed import computed
from ..config import ConnectorConfig
from ..contract import ConnectorContext
from ..foreign import Dialect
from ..memory import MemoryObj
from ..metadata import CacheMetadata
from .backend_view import BackendView
from .chunk_view import ChunkView
from .shapes import chunk_metadata_of


class LMCacheDialect(Dialect, ABC):
    """Gives a guest views of the arena's memory, and LMCache's types for the configuration and the model.

    A subclass makes them: of LMCache's own classes, or of the classes in their place.
    """

    other_memory: ClassVar[type[Any]]
    """The class of memory objects that are not views. What a guest returns as such is copied into the arena."""

    def __init__(self, context: ConnectorContext) -> None:
        super().__init__(context)
        self._backend = self.make_backend()

    # ------------------------------------------------------------------------------------- what a subclass makes

    @abstractmethod
    def make_backend(self) -> BackendView[Any]:
        """The arena, with `config` and `metadata`."""

    @abstractmethod
    def make_context(self) -> Any:
        """The context of an adapter, with `local_cpu_backend`, `config` and `metadata`."""

    @abstractmethod
    def make_config(self, **settings: Any) -> Any:
        """LMCache's configuration with these settings, and the defaults for all others."""

    @abstractmethod
    def make_metadata(self, model: CacheMetadata, **fields: Any) -> Any:
        """LMCache's description of a model. `fields` are those of its fields that need no conversion."""

    def unknown_model(self) -> Any:
        """What stands in the place of LMCache's description where the manager was given no `metadata`."""
        return None

    # ------------------------------------------------------------------------------------------------- what it gets

    @property
    def local_cpu_backend(self) -> Any:
        return self._backend

    @computed
    def context(self) -> Any:
        return self.make_context()

    @computed
    def config(self) -> Any:
        given = self.toolkit_context
        if not isinstance(given.config, ConnectorConfig):
            return given.config
        return self.make_config(
            chunk_size=given.settings.chunk_size if given.metadata is None else given.metadata.chunk_size,
            max_local_cpu_size=given.settings.max_local_cpu_bytes / (1 << 30),
            remote_url=given.url,
            remote_storage_plugins=list(given.settings.remote_storage_plugins) or None,
            blocking_timeout_secs=max(1, round(given.settings.operation_timeout)),
            extra_config=dict(given.settings.extra_config),
        )

    @computed
    def metadata(self) -> Any:
        given = self.toolkit_context.metadata
        if given is None:
            return self.unknown_model()
        if not isinstance(given, CacheMetadata):
            return given
        return self.make_metadata(
            given,
            model_name=given.model_name,
            world_size=given.world_size,
            # Connect does not know how workers are spread over machines: all of them count as local.
            local_world_size=given.world_size,
            worker_id=given.worker_id,
            local_worker_id=given.worker_id,
            kv_shape=given.kv_shape,
            use_mla=given.use_mla,
            chunk_size=given.chunk_size,
        )

    def view(self, obj: MemoryObj) -> Any:
        return self._backend.view_of(obj, is_borrowed=True)

    # ----------------------------------------------------------------------------------------------- what it returns

    async def claim(self, found: object) -> MemoryObj | None:
        if isinstance(found, ChunkView):
            return found.claimed()  # type: ignore[no-any-return]
        if isinstance(found, self.other_memory):
            return await self._copied(found)
        return await super().claim(found)

    async def _copied(self, found: Any) -> MemoryObj:
        try:
            metadata = chunk_metadata_of(found.get_shapes(), found.get_dtypes(), found.get_memory_format())
            obj = await self._backend.original.allocate_chunk_async(
                metadata, timeout=self.toolkit_context.settings.allocate_timeout
            )
            obj.byte_array[:] = memoryview(found.byte_array).cast("B")[: metadata.nbytes]
        finally:
            found.ref_count_down()
        return obj

    # --------------------------------------------------------------------------------------------------------- room

    @property
    def refusals(self) -> int:
        return self._backend.refusals

    async def wait_for_room(self) -> None:
        if (refused := self._backend.refused) is not None:
            obj = await self._backend.original.allocate_chunk_async(
                refused, timeout=self.toolkit_context.settings.allocate_timeout
            )
            obj.ref_count_down()
