"""LMCache's description of a model's cache, in its place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ...dtypes import dtype_of
from ...metadata import CacheMetadata
from ..shapes import Size, dtype_as_seen


@dataclass
class LMCacheMetadata:
    """The geometry of one model's KV cache on one worker, under LMCache's names. Shapes are as in `CacheMetadata`."""

    model_name: str
    world_size: int
    local_world_size: int
    worker_id: int
    local_worker_id: int
    kv_dtype: Any
    kv_shape: tuple[int, int, int, int, int]
    use_mla: bool = False
    role: str | None = None
    served_model_name: str | None = None
    chunk_size: int = 256
    kv_layer_groups_manager: Any = None
    engine_id: str | None = None
    kv_connector_extra_config: dict[str, Any] | None = None
    groups: tuple[tuple[int, int, Any], ...] = field(default=(), kw_only=True)

    first_rank = 0

    @property
    def original(self) -> CacheMetadata:
        """The same for Connect. Raises `InvalidShapeError` where the numbers contradict each other."""
        return CacheMetadata(
            self.model_name,
            self.world_size,
            self.worker_id,
            self.kv_dtype,
            self.kv_shape,
            use_mla=self.use_mla,
            chunk_size=self.chunk_size,
            groups=self.groups,
        )

    def is_first_rank(self) -> bool:
        """Whether this is the first worker."""
        return self.worker_id == self.first_rank

    def get_shapes(self, num_tokens: int | None = None) -> list[Size]:
        """One shape per tensor group, by default of a full chunk."""
        return [Size(shape) for shape in self.original.get_shapes(num_tokens)]

    def get_dtypes(self) -> list[Any]:
        """One dtype per tensor group: torch's where torch has been imported."""
        return [dtype_as_seen(dtype_of(dtype)) for dtype in self.original.get_dtypes()]

    def get_num_groups(self) -> int:
        """The number of tensor groups in a chunk."""
        return self.original.get_num_groups()
