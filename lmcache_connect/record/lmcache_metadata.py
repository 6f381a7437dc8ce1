"""LMCache's own metadata of a stored chunk: the value of `<key>metadata`, beside the payload in `<key>kv_bytes`.

    offset  size  field
         0     4  length of the payload in bytes
         4     4  memory format
         8    20  per tensor group: dtype code (4), then four dimensions (4 each); unused ones are 0

Signed 32-bit numbers in the writer's byte order, which is little-endian wherever LMCache runs. It has no magic,
version, key or checksum. The number of groups follows from the value's size.

Source: `RemoteMetadata` in `lmcache/v1/protocol.py` of LMCache 0.5.6.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final

from ..dtypes import DType, dtype_of
from ..errors import CorruptRecordError, InvalidShapeError, UnknownDtypeError
from ..metadata import MAX_GROUPS, ChunkMetadata, MemoryFormat

MAX_PAYLOAD_BYTES: Final = (1 << 31) - 1
"""The longest payload: its length is a signed 32-bit number."""

MAX_DIMS: Final = 4

_FIXED: Final = struct.Struct("<ii")
_GROUP: Final = struct.Struct("<5i")

MAX_REMOTE_METADATA_BYTES: Final = _FIXED.size + MAX_GROUPS * _GROUP.size

_NO_DTYPE: Final = 0
REMOTE_DTYPE_CODES: Final = {
    1: dtype_of("half"),
    2: dtype_of("half"),
    3: dtype_of("bfloat16"),
    4: dtype_of("float"),
    5: dtype_of("double"),
    6: dtype_of("uint8"),
    7: dtype_of("fp8_e4m3fn"),
    8: dtype_of("fp8_e5m2"),
}
"""The dtypes that LMCache has codes for, by the code. 0 stands for none."""

# Where two codes stand for one dtype, the last one is written, as LMCache does.
_CODES: Final = {dtype: code for code, dtype in REMOTE_DTYPE_CODES.items()}
_BYTES: Final = dtype_of("uint8")
_BINARY: Final = (MemoryFormat.BINARY, MemoryFormat.BINARY_BUFFER)

REMOTE_DTYPES: Final = tuple(sorted(dtype.name for dtype in _CODES))
"""The names of the dtypes that LMCache's metadata has codes for."""


@lru_cache(maxsize=1024)
def encode_remote_metadata(metadata: ChunkMetadata) -> bytes:
    """LMCache's metadata of a chunk, as bytes.

    Raises:
        UnknownDtypeError: LMCache does not have a code for a dtype.
        InvalidShapeError: a shape has more than four dimensions, or the payload is longer than `MAX_PAYLOAD_BYTES`.
    """
    if metadata.nbytes > MAX_PAYLOAD_BYTES:
        raise InvalidShapeError(
            metadata.shapes, f"{metadata.nbytes} bytes; LMCache's records hold at most {MAX_PAYLOAD_BYTES}"
        )
    groups = []
    for shape, dtype in zip(metadata.shapes, metadata.dtypes, strict=True):
        if len(shape) > MAX_DIMS:
            raise InvalidShapeError(shape, f"{len(shape)} dimensions; LMCache's records hold at most {MAX_DIMS}")
        if dtype not in _CODES:
            raise UnknownDtypeError(dtype.name, REMOTE_DTYPES)
        # LMCache writes its own byte buffers without a dtype.
        is_buffer = metadata.fmt is MemoryFormat.BINARY_BUFFER and dtype is _BYTES and len(shape) == 1
        code = _NO_DTYPE if is_buffer else _CODES[dtype]
        groups.append(_GROUP.pack(code, *shape, *(0,) * (MAX_DIMS - len(shape))))
    return _FIXED.pack(metadata.nbytes, metadata.fmt) + b"".join(groups)


def decode_remote_metadata(encoded: bytes, payload_length: int) -> ChunkMetadata:
    """The chunk that LMCache's metadata describes, checked against the length of the payload beside it.

    Raises:
        CorruptRecordError: the first check that fails. Never `removable`: nothing in it says who has written it.
    """
    groups, rest = divmod(len(encoded) - _FIXED.size, _GROUP.size)
    if rest or not 1 <= groups <= MAX_GROUPS:
        raise CorruptRecordError(
            "metadata", f"{len(encoded)} bytes; expected {_FIXED.size} and {_GROUP.size} for each tensor group"
        )
    (length,) = struct.unpack_from("<i", encoded)
    if length != payload_length:
        # A writer writes two keys, so either one may be older, where it is between the two or died there.
        raise CorruptRecordError("length", f"a payload of {payload_length} bytes whose metadata says {length}")
    metadata = _decode_groups(encoded[4:])
    if metadata.nbytes != length:
        raise CorruptRecordError("length", f"a payload of {length} bytes for shapes of {metadata.nbytes}")
    return metadata


@lru_cache(maxsize=1024)
def _decode_groups(encoded: bytes) -> ChunkMetadata:
    # Cached, because all chunks of one model have the same groups. Errors are not cached.
    (number,) = struct.unpack_from("<i", encoded)
    try:
        fmt = MemoryFormat(number)
    except ValueError:
        raise CorruptRecordError("version", f"memory format {number} is of a newer release") from None
    shapes: list[tuple[int, ...]] = []
    dtypes: list[DType] = []
    for code, *dims in _GROUP.iter_unpack(encoded[4:]):
        dtype = _BYTES if code == _NO_DTYPE and fmt in _BINARY else REMOTE_DTYPE_CODES.get(code)
        if dtype is None:
            raise CorruptRecordError("version", f"dtype code {code} is of a newer release")
        while dims and not dims[-1]:
            dims.pop()
        shapes.append(tuple(dims))
        dtypes.append(dtype)
    try:
        return ChunkMetadata.of(shapes, dtypes, fmt)
    except InvalidShapeError as error:
        raise CorruptRecordError("metadata", error.reason) from None
