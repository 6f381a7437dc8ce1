"""Descriptions of KV chunks: memory formats, the shapes of one chunk, and the geometry of a model's cache."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, TypeAlias, TypeGuard, cast

from .computed import computed
from .dtypes import DType, dtype_of
from .errors import InvalidShapeError

Shape: TypeAlias = tuple[int, ...]

MAX_DIMS: Final = 8
"""The most dimensions of one tensor group."""

MAX_GROUPS: Final = 64
"""The most tensor groups of one chunk. No known model has that many kinds of layers."""

MAX_CHUNK_BYTES: Final = 1 << 40
"""The largest chunk. It bounds calculations with shapes from untrusted records; no store accepts such a value."""


class MemoryFormat(IntEnum):
    """The meaning of a chunk's dimensions. The numbers are those of `MemoryFormat` in LMCache 0.5.6."""

    UNDEFINED = 0
    KV_2LTD = 1
    """[2, num_layers, num_tokens, hidden_dim]"""
    KV_T2D = 2
    """[num_tokens, 2, hidden_dim]"""
    KV_2TD = 3
    """[2, num_tokens, hidden_dim]"""
    BINARY = 4
    """[num_bytes]: any bytes"""
    BINARY_BUFFER = 5
    """[num_bytes]: any bytes, in a buffer that does not belong to the arena"""
    KV_MLA_FMT = 6
    """[1, num_layers, num_tokens, aligned_head_size]"""
    EC_TD = 7
    """[num_tokens, hidden_dim] of an encoder cache"""
    HS_TD = 8
    """[num_tokens, hidden_dim] of hidden states"""

    def token_dim(self) -> int:
        """The index of the dimension that counts tokens (or bytes, for the binary formats)."""
        return _TOKEN_DIM.get(self, 0)


# By their names, KV_2TD has its tokens in dimension 1 and KV_T2D in dimension 0. LMCache's docstrings and its code for
# layers say the same. Only its token_dim(), in 0.5.6, returns the opposite.
_TOKEN_DIM: Final = {MemoryFormat.KV_2LTD: 2, MemoryFormat.KV_2TD: 1, MemoryFormat.KV_MLA_FMT: 2}


@dataclass(frozen=True)
class ChunkMetadata:
    """Shapes, dtypes and format of one chunk, which has one or several tensor groups, stored one after the other.

    `shapes` and `dtypes` have equal length, at least 1. All sizes are bytes.
    """

    shapes: tuple[Shape, ...]
    dtypes: tuple[DType, ...]
    fmt: MemoryFormat

    @classmethod
    def of(cls, shapes: object, dtypes: object, fmt: MemoryFormat | None = None) -> ChunkMetadata:
        """The metadata for one shape and dtype, or for a list of each.

        A single dtype applies to every shape. Without `fmt`, the format of four-dimensional shapes is `KV_2LTD`, or
        `KV_MLA_FMT` if the first dimension is 1. Other shapes are `UNDEFINED`.

        Raises:
            InvalidShapeError: a shape is empty or too large, a dimension is not a positive integer, or the lists
                differ in length.
            UnknownDtypeError: a dtype is unknown.
        """
        many = _shapes(shapes)
        kinds = tuple(dtype_of(item) for item in dtypes) if isinstance(dtypes, list | tuple) else (dtype_of(dtypes),)
        if len(kinds) == 1 and len(many) > 1:
            kinds *= len(many)
        if len(kinds) != len(many):
            raise InvalidShapeError(shapes, f"{len(many)} shapes and {len(kinds)} dtypes; expected equal numbers")
        metadata = cls(many, kinds, _format(many, fmt))
        if metadata.nbytes > MAX_CHUNK_BYTES:
            raise InvalidShapeError(shapes, f"{metadata.nbytes} bytes; expected at most {MAX_CHUNK_BYTES}")
        return metadata

    @computed
    def nbytes(self) -> int:
        """The size of all groups in bytes."""
        return sum(self.group_nbytes)

    @computed
    def group_nbytes(self) -> tuple[int, ...]:
        """The size of each group in bytes."""
        return tuple(math.prod(shape) * dtype.itemsize for shape, dtype in zip(self.shapes, self.dtypes, strict=True))

    @property
    def num_tokens(self) -> int:
        """The number of tokens in the chunk, taken from its first group."""
        return self.shapes[0][self._token_dim(self.shapes[0])]

    def with_tokens(self, num_tokens: int) -> ChunkMetadata:
        """The same metadata with another number of tokens: a partial chunk has fewer than `chunk_size`."""
        shapes = []
        for shape in self.shapes:
            dim = self._token_dim(shape)
            shapes.append((*shape[:dim], num_tokens, *shape[dim + 1 :]))
        return ChunkMetadata.of(shapes, list(self.dtypes), self.fmt)

    def _token_dim(self, shape: Shape) -> int:
        dim = self.fmt.token_dim()
        if dim >= len(shape):
            raise InvalidShapeError(shape, f"{self.fmt.name} needs a dimension {dim}, which counts tokens")
        return dim


@dataclass(frozen=True)
class CacheMetadata:
    """The geometry of one model's KV cache on one worker.

    Attributes:
        model_name: as the keys contain it.
        world_size, worker_id: tensor-parallel size and rank.
        kv_dtype: the element type. Anything that `dtype_of` takes.
        kv_shape: (num_layers, 2 or 1, chunk_size, num_kv_heads, head_size), as in LMCache.
        use_mla: whether each token has one latent vector instead of a key and a value. `kv_shape[1]` is then 1.
        chunk_size: the number of tokens in a full chunk.
        groups: (num_layers, hidden_dim, dtype) for each kind of layer. Empty where all layers are alike, as
            `kv_shape` describes them.

    Raises:
        InvalidShapeError: a number is missing, not an integer or out of range, or two numbers contradict each other.
        UnknownDtypeError: a dtype is unknown.
    """

    model_name: str
    world_size: int
    worker_id: int
    kv_dtype: Any
    kv_shape: tuple[int, int, int, int, int]
    use_mla: bool = False
    chunk_size: int = 256
    groups: tuple[tuple[int, int, Any], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "kv_dtype", dtype_of(self.kv_dtype))
        shape = tuple(self.kv_shape) if isinstance(self.kv_shape, Iterable) else ()
        if len(shape) != 5 or not all(_is_count(dim) for dim in shape):
            raise InvalidShapeError(
                self.kv_shape, "expected five positive numbers (layers, 2 or 1, chunk_size, heads, head_size)"
            )
        object.__setattr__(self, "kv_shape", shape)
        if shape[1] != (1 if self.use_mla else 2):
            raise InvalidShapeError(
                shape, f"use_mla is {self.use_mla}, so dimension 1 must be {1 if self.use_mla else 2}"
            )
        if not _is_count(self.chunk_size):
            raise InvalidShapeError(self.chunk_size, "chunk_size must be at least 1 token")
        if shape[2] != self.chunk_size:
            # Either number could be right. The wrong one would cut every chunk short, or expect more than there is.
            raise InvalidShapeError(shape, f"chunk_size is {self.chunk_size}, so dimension 2 must be the same")
        if not _is_count(self.world_size):
            raise InvalidShapeError(self.world_size, "world_size must be at least 1")
        if not isinstance(self.worker_id, int) or not 0 <= self.worker_id < self.world_size:
            raise InvalidShapeError(
                self.worker_id, f"worker_id must be from 0 to world_size - 1 = {self.world_size - 1}"
            )
        groups = []
        for group in self.groups:
            if not isinstance(group, tuple | list) or len(group) != 3 or not all(map(_is_count, group[:2])):
                raise InvalidShapeError(group, "expected a group as (num_layers, hidden_dim, dtype)")
            groups.append((group[0], group[1], dtype_of(group[2])))
        object.__setattr__(self, "groups", tuple(groups))
        self.chunk()  # raises where the groups together do not make a valid chunk

    @property
    def fmt(self) -> MemoryFormat:
        """The memory format of this model's chunks."""
        return MemoryFormat.KV_MLA_FMT if self.use_mla else MemoryFormat.KV_2LTD

    def get_shapes(self, num_tokens: int | None = None) -> list[Shape]:
        """The shape [2 or 1, num_layers, num_tokens, hidden_dim] of each group, by default for a full chunk."""
        tokens = self.chunk_size if num_tokens is None else num_tokens
        layers, kv, _, heads, head_size = self.kv_shape
        groups = [(count, hidden) for count, hidden, _ in self.groups] or [(layers, heads * head_size)]
        return [(kv, count, tokens, hidden) for count, hidden in groups]

    def get_dtypes(self) -> list[DType]:
        """The dtype of each group."""
        return [dtype_of(dtype) for _, _, dtype in self.groups] or [cast(DType, self.kv_dtype)]

    def get_num_groups(self) -> int:
        """The number of tensor groups in a chunk."""
        return len(self.groups) or 1

    def chunk(self, num_tokens: int | None = None) -> ChunkMetadata:
        """Shapes, dtypes and format of a chunk with `num_tokens` tokens, by default a full chunk."""
        return ChunkMetadata.of(list(self.get_shapes(num_tokens)), list(self.get_dtypes()), self.fmt)

    @property
    def full_chunk_bytes(self) -> int:
        """The size of a full chunk in bytes."""
        return self.chunk().nbytes

    @property
    def bytes_per_token(self) -> int:
        """The bytes of one token in all layers and groups."""
        return self.chunk(1).nbytes


def _is_count(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 1


def _shapes(shapes: object) -> tuple[Shape, ...]:
    if not isinstance(shapes, Iterable):
        raise InvalidShapeError(shapes, "expected a shape such as (2, 32, 256, 1024), or a list of shapes")
    items = list(shapes)
    single = bool(items) and not any(_is_shape(item) for item in items)
    groups: Sequence[object] = [items] if single else items
    if not groups or len(groups) > MAX_GROUPS:
        raise InvalidShapeError(shapes, f"{len(groups)} tensor groups; expected 1 to {MAX_GROUPS}")
    return tuple(_shape(group) for group in groups)


def _is_shape(value: object) -> TypeGuard[Iterable[Any]]:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes)


def _shape(shape: object) -> Shape:
    if not _is_shape(shape):
        raise InvalidShapeError(shape, "expected a sequence of numbers")
    dims = tuple(shape)
    if not 1 <= len(dims) <= MAX_DIMS:
        raise InvalidShapeError(shape, f"{len(dims)} dimensions; expected 1 to {MAX_DIMS}")
    for dim in dims:
        if not isinstance(dim, int) or isinstance(dim, bool) or not 1 <= dim <= MAX_CHUNK_BYTES:
            raise InvalidShapeError(shape, f"the dimension {dim!r} is not a number from 1 to {MAX_CHUNK_BYTES}")
    return dims


def _format(shapes: tuple[Shape, ...], fmt: MemoryFormat | None) -> MemoryFormat:
    if fmt is not None:
        try:
            return MemoryFormat(getattr(fmt, "value", fmt))  # LMCache's own enumeration has the same numbers
        except ValueError:
            raise InvalidShapeError(fmt, f"expected one of {', '.join(f.name for f in MemoryFormat)}") from None
    if all(len(shape) == 4 and shape[0] in (1, 2) for shape in shapes):
        return MemoryFormat.KV_MLA_FMT if shapes[0][0] == 1 else MemoryFormat.KV_2LTD
    return MemoryFormat.UNDEFINED
