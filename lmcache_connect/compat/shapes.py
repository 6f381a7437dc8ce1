"""Conversions between what LMCache's types say of a chunk and `ChunkMetadata`."""

from __future__ import annotations

import math
import sys
from typing import Any

from ..dtypes import DType
from ..errors import InvalidShapeError
from ..metadata import ChunkMetadata, MemoryFormat

_BUFFERS = (MemoryFormat.BINARY, MemoryFormat.BINARY_BUFFER)


class Size(tuple[int, ...]):
    """A shape with the part of `torch.Size` that connectors use. Equal to the `torch.Size` of the same dimensions."""

    __slots__ = ()

    def numel(self) -> int:
        """The number of elements."""
        return math.prod(self)


def dtype_as_seen(dtype: DType) -> Any:
    """torch's dtype where the process has imported torch, and otherwise Connect's own."""
    torch = sys.modules.get("torch")
    return dtype if torch is None else getattr(torch, dtype.torch_name, dtype)


def chunk_metadata_of(shapes: Any, dtypes: Any, fmt: Any = None) -> ChunkMetadata:
    """The chunk that these arguments of LMCache's `allocate` ask for.

    In LMCache a byte buffer has the dtype None, and a shape of its length followed by zeros.

    Raises:
        InvalidShapeError, UnknownDtypeError.
    """
    known = None if fmt is None else MemoryFormat(getattr(fmt, "value", fmt))
    many = [shapes] if not any(isinstance(shape, list | tuple) for shape in shapes) else list(shapes)
    if known in _BUFFERS:
        many = [tuple(dim for dim in shape if dim) for shape in many]
    kinds = [
        "uint8" if dtype is None else dtype for dtype in (dtypes if isinstance(dtypes, list | tuple) else [dtypes])
    ]
    return ChunkMetadata.of([tuple(shape) for shape in many], kinds, known)


def narrowed(metadata: ChunkMetadata, shape: Any, used: int) -> ChunkMetadata:
    """The chunk after a guest gave its first group another shape, or cut it to its first `used` bytes.

    Raises:
        InvalidShapeError: the bytes are not a whole number of tokens.
    """
    if tuple(shape) != metadata.shapes[0] and metadata.fmt not in _BUFFERS:
        return ChunkMetadata.of([tuple(shape), *metadata.shapes[1:]], list(metadata.dtypes), metadata.fmt)
    if used == metadata.nbytes:
        return metadata
    per_token = metadata.nbytes // metadata.num_tokens
    if not 0 < used < metadata.nbytes or used % per_token:
        raise InvalidShapeError(used, f"not a whole number of tokens of {per_token} bytes, up to {metadata.nbytes}")
    return metadata.with_tokens(used // per_token)
