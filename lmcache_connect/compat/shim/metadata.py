"""LMCache's description of a model's cache, made of this toolkit's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ...dtypes import dtype_of
from ...metadata import CacheMetadata
from ..shapes import Size, dtype_as_seen


@dataclass
class LMCacheMetadata:
    """The geometry of one model's KV cache on one worker, with LMCache's names. Shapes as `CacheMetadata` has them."""

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

    @classmethod
    def of(cls, metadata: CacheMetadata) -> LMCacheMetadata:
        """The same in LMCache's terms. All workers are taken to be on one host, which the toolkit knows nothing of."""
        return cls(
            model_name=metadata.model_name,
            world_size=metadata.world_size,
            local_world_size=metadata.world_size,
            worker_id=metadata.worker_id,
            local_worker_id=metadata.worker_id,
            kv_dtype=dtype_as_seen(metadata.kv_dtype),
            kv_shape=metadata.kv_shape,
            use_mla=metadata.use_mla,
            chunk_size=metadata.chunk_size,
            groups=metadata.groups,
        )

    def toolkit(self) -> CacheMetadata:
        """The same in the toolkit's terms. Raises `InvalidShapeError` where its numbers contradict each other."""
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

    @property
    def full_chunk_bytes(self) -> int:
        """Bytes of a full chunk."""
        return self.toolkit().full_chunk_bytes

    def is_first_rank(self) -> bool:
        """Whether this is the first worker."""
        return self.worker_id == self.first_rank

    def get_shapes(self, num_tokens: int | None = None) -> list[Size]:
        """One shape per tensor group, by default of a full chunk."""
        return [Size(shape) for shape in self.toolkit().get_shapes(num_tokens)]

    def get_dtypes(self) -> list[Any]:
        """One dtype per tensor group: torch's where torch has been imported."""
        return [dtype_as_seen(dtype_of(dtype)) for dtype in self.toolkit().get_dtypes()]

    def get_num_groups(self) -> int:
        """The number of tensor groups in a chunk."""
        return self.toolkit().get_num_groups()


def toolkit_metadata(metadata: Any) -> Any:
    """The toolkit's description for LMCache's; anything else as it is."""
    return metadata.toolkit() if isinstance(metadata, LMCacheMetadata) else metadata
