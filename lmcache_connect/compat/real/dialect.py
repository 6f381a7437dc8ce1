"""`RealDialect`: how a connector that derives from LMCache's own classes is spoken to. Needs LMCache."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from ...config import ConnectorConfig
from ...contract import ConnectorContext
from ...errors import InvalidArgumentError
from ...foreign import Dialect
from ...keys import Key
from ...memory import MemoryObj
from ...metadata import CacheMetadata, ChunkMetadata
from ..shapes import described
from .memory import BufferView, TensorView, lmcache_key, view_of

# ruff: isort: split
import torch
from lmcache.v1.config import LMCacheEngineConfig
from lmcache.v1.memory_management import MemoryObj as TheirMemoryObj
from lmcache.v1.metadata import LMCacheMetadata
from lmcache.v1.storage_backend.connector import ConnectorContext as TheirContext
from lmcache.v1.storage_backend.job_executor.base_executor import BaseJobExecutor
from lmcache.v1.storage_backend.local_cpu_backend import LocalCPUBackend


class BackendView(LocalCPUBackend):  # type: ignore[misc]
    """LMCache's local CPU backend on this toolkit's memory, with an empty hot cache. Never waits."""

    def __init__(self, context: ConnectorContext, config: Any, metadata: Any) -> None:
        # Not the base's: it would map memory of its own, and start LMCache's metrics.
        self.toolkit = context.local_cpu_backend
        self._context = context
        self.config = config
        self.metadata = metadata
        self.use_hot = False
        self.hot_cache: dict[Any, Any] = {}
        self.keys_in_request: list[Any] = []
        self.cpu_lock = threading.Lock()
        self.batched_msg_sender = None
        self.layerwise = bool(getattr(config, "use_layerwise", False))
        self.enable_blending = bool(getattr(config, "enable_blending", False))
        self.memory_allocator = self
        self.refusals = 0
        self.refused: ChunkMetadata | None = None

    def allocate(
        self, shapes: Any, dtypes: Any, fmt: Any = None, eviction: bool = True, busy_loop: bool = True
    ) -> TensorView | BufferView | None:
        """One object with one reference, or None where there is no room now."""
        metadata = described(shapes, dtypes, fmt)
        obj = self.toolkit.allocate_chunk(metadata, eviction)
        if obj is None:
            self.refusals += 1
            self.refused = metadata
            return None
        return view_of(obj, is_lent=False)

    def batched_allocate(
        self,
        shapes: Any,
        dtypes: Any,
        batch_size: int,
        fmt: Any = None,
        eviction: bool = True,
        busy_loop: bool = True,
    ) -> list[TensorView | BufferView] | None:
        """As many objects of one kind, or None and nothing at all."""
        taken: list[TensorView | BufferView] = []
        for _ in range(batch_size):
            obj = self.allocate(shapes, dtypes, fmt, eviction)
            if obj is None:
                for each in taken:
                    each.ref_count_down()
                return None
            taken.append(obj)
        return taken

    def get_full_chunk_size_bytes(self) -> int:
        """Bytes of a full chunk. Raises `InvalidArgumentError` where the model is not known."""
        return self._context.get_full_chunk_size_bytes()

    def get_memory_allocator(self) -> BackendView:
        """This object."""
        return self

    def clear(self) -> int:
        """Nothing: there is nothing in its cache."""
        return 0

    def close(self) -> None:
        """Nothing: the memory is borrowed."""


class RealDialect(Dialect):
    """LMCache's own types: views of this toolkit's memory, and copies of its keys, settings and geometry."""

    def __init__(self, context: ConnectorContext) -> None:
        super().__init__(context)
        self._backend = BackendView(context, self.config, self.metadata)

    @cached_property
    def context(self) -> Any:
        given = self.toolkit_context
        return TheirContext(given.url, given.loop, self._backend, self.config, self.metadata, given.plugin_name)

    @property
    def local_cpu_backend(self) -> Any:
        return self._backend

    @cached_property
    def config(self) -> Any:
        given = self.toolkit_context
        if not isinstance(given.config, ConnectorConfig):
            return given.config
        return LMCacheEngineConfig.from_defaults(
            chunk_size=given.settings.chunk_size if given.metadata is None else given.metadata.chunk_size,
            max_local_cpu_size=given.settings.max_local_cpu_bytes / (1 << 30),
            remote_url=given.url,
            remote_storage_plugins=list(given.settings.remote_storage_plugins) or None,
            blocking_timeout_secs=max(1, round(given.settings.operation_timeout)),
            extra_config=dict(given.settings.extra_config),
        )

    @cached_property
    def metadata(self) -> Any:
        given = self.toolkit_context.metadata
        if given is None:
            return _UnknownModel()
        return _their_metadata(given) if isinstance(given, CacheMetadata) else given

    def key(self, key: Key) -> Any:
        return lmcache_key(key)

    def lend(self, obj: MemoryObj) -> Any:
        return view_of(obj, is_lent=True)

    def take_back(self, lent: Sequence[Any]) -> None:
        for view in lent:
            view.end()

    async def claim(self, found: object) -> MemoryObj | None:
        if isinstance(found, TensorView | BufferView):
            return found.claimed()  # type: ignore[no-any-return]
        if isinstance(found, TheirMemoryObj):
            return await self._copied(found)
        return await super().claim(found)

    async def _copied(self, found: Any) -> MemoryObj:
        # Memory that LMCache, or the connector, allocated elsewhere: the arena's own is what a caller may keep.
        metadata = described(found.get_shapes(), found.get_dtypes(), found.get_memory_format())
        try:
            obj = await self._backend.toolkit.allocate_chunk_async(
                metadata, timeout=self.toolkit_context.settings.allocate_timeout
            )
            obj.byte_array[:] = memoryview(found.byte_array).cast("B")[: metadata.nbytes]
        finally:
            found.ref_count_down()
        return obj

    @property
    def refusals(self) -> int:
        return self._backend.refusals

    async def wait_for_room(self) -> None:
        if (refused := self._backend.refused) is not None:
            obj = await self._backend.toolkit.allocate_chunk_async(
                refused, timeout=self.toolkit_context.settings.allocate_timeout
            )
            obj.ref_count_down()

    def outlives_cancellation(self, connector: Any) -> bool:
        """Whether it works through one of LMCache's executors.

        A worker of theirs dies of a caller who was cancelled, and after four of those nothing is ever answered.
        """
        return any(isinstance(value, BaseJobExecutor) for value in _attributes(connector).values())

    def before_close(self, connector: Any) -> None:
        """Puts something that can be awaited in the place of each executor.

        LMCache's connectors await `shutdown`, which blocks the loop's own thread until the loop has done something.
        """
        for name, value in _attributes(connector).items():
            if isinstance(value, BaseJobExecutor) and inspect.iscoroutinefunction(
                getattr(value, "shutdown_async", None)
            ):
                setattr(connector, name, _AwaitedShutdown(value))


class _AwaitedShutdown:
    """One of LMCache's executors, whose `shutdown` can be awaited, as its users try to."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor

    async def shutdown(self, wait: bool = True) -> None:
        """Ends the workers, after they have done what there is to do where `wait` is True."""
        await self._executor.shutdown_async(wait)

    shutdown_async = shutdown

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)


def _attributes(connector: Any) -> dict[str, Any]:
    return dict(getattr(connector, "__dict__", {}))


def _their_metadata(metadata: CacheMetadata) -> Any:
    made = LMCacheMetadata(
        model_name=metadata.model_name,
        world_size=metadata.world_size,
        local_world_size=metadata.world_size,
        worker_id=metadata.worker_id,
        local_worker_id=metadata.worker_id,
        kv_dtype=getattr(torch, metadata.kv_dtype.torch_name),
        kv_shape=metadata.kv_shape,
        use_mla=metadata.use_mla,
        chunk_size=metadata.chunk_size,
    )
    return made if not metadata.groups else _Grouped(made, metadata)


class _UnknownModel:
    """What stands in the place of the metadata that nobody gave: LMCache's base class would only fail an assertion."""

    def __bool__(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        raise InvalidArgumentError(
            "metadata",
            f"a connector of LMCache's asks for the model's {name}; give its manager metadata=CacheMetadata(...)",
        )


class _Grouped:
    """LMCache's metadata with tensor groups, which LMCache itself only learns from a serving engine."""

    def __init__(self, made: Any, metadata: CacheMetadata) -> None:
        self._made = made
        self._metadata = metadata

    def get_shapes(self, num_tokens: int | None = None) -> list[Any]:
        """One shape per group, by default of a full chunk."""
        return [torch.Size(shape) for shape in self._metadata.get_shapes(num_tokens)]

    def get_dtypes(self) -> list[Any]:
        """One dtype per group."""
        return [getattr(torch, dtype.torch_name) for dtype in self._metadata.get_dtypes()]

    def get_num_groups(self) -> int:
        """The number of groups."""
        return self._metadata.get_num_groups()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._made, name)
