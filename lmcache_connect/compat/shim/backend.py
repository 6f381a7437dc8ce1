"""LMCache's local CPU backend: a view of this toolkit's, for one connector."""

from __future__ import annotations

from typing import Any, Final

from ...memory import LocalCPUBackend as ToolkitBackend
from ...metadata import ChunkMetadata
from ..shapes import described
from .memory import TensorMemoryObj


class LocalCPUBackend:
    """Memory for a connector that was written for LMCache; everything that is not here is the toolkit's backend's.

    `config` and `metadata` are what LMCache's has; `refusals` counts how often there was no room.
    """

    def __init__(self, toolkit: ToolkitBackend, config: Any, metadata: Any) -> None:
        self.toolkit: Final = toolkit
        self.config = config
        self.metadata = metadata
        self.refusals = 0
        self.refused: ChunkMetadata | None = None

    @property
    def memory_allocator(self) -> LocalCPUBackend:
        """This object: what LMCache keeps apart is one here."""
        return self

    def allocate(
        self, shapes: Any, dtypes: Any, fmt: Any = None, eviction: bool = True, busy_loop: bool = True
    ) -> TensorMemoryObj | None:
        """One object with one reference, or None where there is no room now. Never waits.

        Raises:
            InvalidShapeError, UnknownDtypeError.
        """
        metadata = described(shapes, dtypes, fmt)
        obj = self.toolkit.allocate_chunk(metadata, eviction)
        if obj is None:
            self.refusals += 1
            self.refused = metadata
            return None
        return TensorMemoryObj.holding(obj)

    def batched_allocate(
        self,
        shapes: Any,
        dtypes: Any,
        batch_size: int,
        fmt: Any = None,
        eviction: bool = True,
        busy_loop: bool = True,
    ) -> list[TensorMemoryObj] | None:
        """As many objects of one kind, or None and nothing at all."""
        taken: list[TensorMemoryObj] = []
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
        return self.toolkit.get_full_chunk_size_bytes() if self.metadata is None else self.metadata.full_chunk_bytes

    def __getattr__(self, name: str) -> Any:
        return getattr(self.toolkit, name)

    def __str__(self) -> str:
        return "LocalCPUBackend"


def toolkit_backend(backend: Any) -> Any:
    """The toolkit's backend behind a view; anything else as it is."""
    return backend.toolkit if isinstance(backend, LocalCPUBackend) else backend
