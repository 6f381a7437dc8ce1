"""`LMCacheMemory`: LMCache's memory, which connectors receive into and send from inside LMCache."""

from __future__ import annotations

from typing import Any

from ...compat import chunk_metadata_of
from ...errors import MissingExtraError
from ...metadata import ChunkMetadata, MemoryFormat
from ..engine_memory import EngineMemory, EngineMemoryObj

try:
    import torch
    from lmcache.v1.memory_management import MemoryFormat as TheirFormat
except ImportError as missing:
    raise MissingExtraError("running inside LMCache", missing.name or "lmcache", "torch") from missing


class LMCacheMemory(EngineMemory):
    """Allocates from LMCache's own `LocalCPUBackend`. A scheduler has none."""

    def _allocate_theirs(self, allocator: Any, metadata: ChunkMetadata, eviction: bool) -> Any:
        shapes: list[Any] = [torch.Size(shape) for shape in metadata.shapes]
        dtypes: list[Any] = [getattr(torch, dtype.torch_name) for dtype in metadata.dtypes]
        if metadata.fmt is MemoryFormat.BINARY_BUFFER:
            shapes, dtypes = [torch.Size((metadata.nbytes, 0, 0, 0))], [None]
        return allocator.allocate(shapes, dtypes, TheirFormat(metadata.fmt.value), eviction=eviction, busy_loop=False)

    def borrowed_from(self, theirs: Any) -> EngineMemoryObj:
        """Returns an object for the memory of LMCache's `theirs`, whose references stay with the caller.

        Raises:
            InvalidShapeError, UnknownDtypeError: it holds nothing that this toolkit can describe.
        """
        return self.borrowed(
            theirs, chunk_metadata_of(theirs.get_shapes(), theirs.get_dtypes(), theirs.get_memory_format())
        )
