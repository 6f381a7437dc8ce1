"""LMCache's description of a stored chunk, in its place. Its codes are those of `lmcache_connect.record`."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from ...dtypes import dtype_of
from ...errors import CorruptRecordError, InvalidShapeError, UnknownDtypeError
from ...metadata import MemoryFormat
from ...record import MAX_REMOTE_METADATA_BYTES, REMOTE_DTYPE_CODES
from ..shapes import Size, dtype_as_seen

_FIXED: Final = struct.Struct("<ii")
_GROUP: Final = struct.Struct("<5i")
_MAX_DIMS: Final = 4
_groups = 1


class ClientCommand(IntEnum):
    """The commands of LMCache's own server."""

    PUT = 1
    GET = 2
    EXIST = 3
    LIST = 4
    HEALTH = 5


class ServerReturnCode(IntEnum):
    """The answers of LMCache's own server."""

    SUCCESS = 200
    FAIL = 400


def init_remote_metadata_info(num_groups: int) -> None:
    """Sets how many tensor groups the chunks of this process have."""
    global _groups  # noqa: PLW0603 - one number a process, as in LMCache
    _groups = num_groups


def get_remote_metadata_bytes() -> int:
    """Bytes of the description of a chunk with that many groups."""
    return 4 * (2 + 5 * _groups)


def pad_shape_to_4d(shape: Any) -> list[int]:
    """The dimensions, followed by zeros up to four dimensions. Raises `InvalidShapeError` where there are more."""
    if len(shape) > _MAX_DIMS:
        raise InvalidShapeError(shape, f"{len(shape)} dimensions; LMCache's records hold at most {_MAX_DIMS}")
    return [*shape, *(0,) * (_MAX_DIMS - len(shape))]


def strip_shape_padding(dims: list[int], fmt: Any = MemoryFormat.UNDEFINED) -> Size:
    """The dimensions without the zeros behind them. A byte buffer keeps all four."""
    if fmt in (MemoryFormat.BINARY, MemoryFormat.BINARY_BUFFER):
        return Size(dims)
    kept = list(dims)
    while len(kept) > 1 and not kept[-1]:
        kept.pop()
    return Size(kept)


@dataclass
class RemoteMetadata:
    """Length in bytes, shapes, dtypes and format of a stored chunk. See `lmcache_connect.record.lmcache_metadata`.

    As in LMCache, nothing is checked but that it can be written: a connector may mean something of its own by it.
    """

    length: int
    shapes: list[Any]
    dtypes: list[Any]
    fmt: Any

    def serialize(self) -> bytes:
        """The encoded description. A dtype may be None, and `length` another than that of the shapes.

        Raises:
            UnknownDtypeError: LMCache has no code for a dtype.
            InvalidShapeError: a shape has more than four dimensions, or a number does not fit into 32 bits.
        """
        fields = [self.length, int(getattr(self.fmt, "value", self.fmt))]
        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            fields += [_code_of(dtype), *pad_shape_to_4d(shape)]
        try:
            return struct.pack(f"<{len(fields)}i", *fields)
        except struct.error as error:
            raise InvalidShapeError(self.shapes, f"LMCache's records hold numbers of 32 bits: {error}") from None

    def serialize_into(self, buffer: Any) -> None:
        """Writes the description at the start of a buffer."""
        encoded = self.serialize()
        memoryview(buffer).cast("B")[: len(encoded)] = encoded

    @staticmethod
    def deserialize(s: Any) -> RemoteMetadata:
        """Decodes a description. Bytes behind it are ignored.

        It has as many groups as `init_remote_metadata_info` was called with. Where these do not fit its length and all
        of its bytes do, the number of groups follows from its size. Its length need not be that of its shapes: that of
        a connector which compresses is not.

        Raises:
            CorruptRecordError: it is not a description of a chunk.
        """
        encoded = bytes(memoryview(s).cast("B")[:MAX_REMOTE_METADATA_BYTES])
        expected = get_remote_metadata_bytes()
        ways = dict.fromkeys([encoded[:expected], encoded])
        found: list[RemoteMetadata] = []
        failure: CorruptRecordError | None = None
        for each in ways:
            try:
                found.append(_decoded(each))
            except CorruptRecordError as error:
                failure = failure or error
        for metadata in found:
            if _nbytes(metadata) == metadata.length:
                return metadata
        if found:
            return found[0]
        raise failure or CorruptRecordError("metadata", f"{len(encoded)} bytes; expected {expected}")


def _code_of(dtype: Any) -> int:
    if dtype is None:
        return 0
    found = dtype_of(dtype)
    for code, known in REMOTE_DTYPE_CODES.items():
        if known is found and code != 1:  # of the two for half, LMCache writes the second
            return code
    raise UnknownDtypeError(dtype, [known.name for known in REMOTE_DTYPE_CODES.values()])


def _decoded(encoded: bytes) -> RemoteMetadata:
    groups, rest = divmod(len(encoded) - _FIXED.size, _GROUP.size)
    if rest or groups < 1:
        raise CorruptRecordError("metadata", f"{len(encoded)} bytes; expected {_FIXED.size}, and {_GROUP.size} a group")
    length, number = _FIXED.unpack_from(encoded)
    try:
        fmt = MemoryFormat(number)
    except ValueError:
        raise CorruptRecordError("version", f"memory format {number} is of a newer release") from None
    shapes, dtypes = [], []
    for code, *dims in _GROUP.iter_unpack(encoded[_FIXED.size :]):
        if code != 0 and code not in REMOTE_DTYPE_CODES:
            raise CorruptRecordError("version", f"dtype code {code} is of a newer release")
        if length < 0 or min(dims) < 0:
            raise CorruptRecordError("metadata", f"a negative number: {length} bytes of {dims}")
        shapes.append(strip_shape_padding(dims, fmt))
        dtypes.append(dtype_as_seen(REMOTE_DTYPE_CODES[code]) if code else None)
    return RemoteMetadata(length, shapes, dtypes, fmt)


def _nbytes(metadata: RemoteMetadata) -> int:
    total = 0
    for shape, dtype in zip(metadata.shapes, metadata.dtypes, strict=True):
        itemsize = 1 if dtype is None else dtype_of(dtype).itemsize
        total += itemsize * math.prod(dim for dim in shape if dim)
    return total
