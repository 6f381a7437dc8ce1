"""`BackendView`: the arena under the names of LMCache's `LocalCPUBackend`, for one guest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

from ..contract import ConnectorContext
from ..memory import ChunkMemory, MemoryObj
from ..metadata import ChunkMetadata
from .shapes import chunk_metadata_of

ViewT = TypeVar("ViewT", bound=Any)


class BackendView(ABC, Generic[ViewT]):
    """Allocates in the arena of `original` and never waits. `config` and `metadata` are of LMCache's types.

    `refusals` counts how often there was no room. `refused` is what was asked for at the last of these times.
    """

    original: ChunkMemory
    config: Any
    metadata: Any
    refusals: int
    refused: ChunkMetadata | None

    def _init_view(self, context: ConnectorContext, config: Any, metadata: Any) -> None:
        # Not __init__: LMCache's own class has one, which would map memory and start metrics.
        self.original = context.local_cpu_backend
        self._context = context
        self.config = config
        self.metadata = metadata
        self.refusals = 0
        self.refused = None

    @abstractmethod
    def view_of(self, original: MemoryObj, *, is_borrowed: bool) -> ViewT:
        """The guest's object for the memory of `original`. One that is not borrowed takes over a reference."""

    @property
    def memory_allocator(self) -> Any:
        """This object: LMCache keeps the two apart."""
        return self

    def get_memory_allocator(self) -> Any:
        """This object: LMCache keeps the two apart."""
        return self

    def allocate(
        self, shapes: Any, dtypes: Any, fmt: Any = None, eviction: bool = True, busy_loop: bool = True
    ) -> ViewT | None:
        """One object with one reference, or None where there is no room now.

        Raises:
            InvalidShapeError, UnknownDtypeError.
        """
        metadata = chunk_metadata_of(shapes, dtypes, fmt)
        obj = self.original.allocate_chunk(metadata, eviction)
        if obj is None:
            self.refusals += 1
            self.refused = metadata
            return None
        return self.view_of(obj, is_borrowed=False)

    def batched_allocate(
        self,
        shapes: Any,
        dtypes: Any,
        batch_size: int,
        fmt: Any = None,
        eviction: bool = True,
        busy_loop: bool = True,
    ) -> list[ViewT] | None:
        """`batch_size` objects of one kind; None, and none of them, where there is no room for all."""
        taken: list[ViewT] = []
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
