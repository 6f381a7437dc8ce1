"""LMCache's description of a stored chunk, in its place. The encoding is done by `lmcache_connect.record`."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from ...errors import CorruptRecordError
from ...metadata import ChunkMetadata, MemoryFormat
from ...record import MAX_REMOTE_METADATA_BYTES, decode_remote_metadata, encode_remote_metadata
from ..shapes import Size, chunk_metadata_of, dtype_as_seen

_LENGTH: Final = struct.Struct("<i")
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
    """The dimensions, followed by zeros up to four dimensions."""
    return [*shape, *(0,) * (4 - len(shape))]


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
    """Length in bytes, shapes, dtypes and format of a stored chunk. See `lmcache_connect.record.lmcache_metadata`."""

    length: int
    shapes: list[Any]
    dtypes: list[Any]
    fmt: Any

    def serialize(self) -> bytes:
        """The encoded description. Raises `UnknownDtypeError` or `InvalidShapeError` where LMCache has none."""
        return (
            _LENGTH.pack(self.length)
            + encode_remote_metadata(chunk_metadata_of(self.shapes, self.dtypes, self.fmt))[4:]
        )

    def serialize_into(self, buffer: Any) -> None:
        """Writes the description at the start of a buffer."""
        encoded = self.serialize()
        memoryview(buffer).cast("B")[: len(encoded)] = encoded

    @staticmethod
    def deserialize(s: Any) -> RemoteMetadata:
        """Decodes a description. Bytes behind it are ignored.

        It has as many groups as `init_remote_metadata_info` was called with. Where that does not decode, the number
        follows from its size.

        Raises:
            CorruptRecordError: it is not a description of a chunk.
        """
        view = memoryview(s).cast("B")
        try:
            metadata, length = _decoded(bytes(view[: get_remote_metadata_bytes()]))
        except CorruptRecordError:
            if len(view) == get_remote_metadata_bytes() or len(view) > MAX_REMOTE_METADATA_BYTES:
                raise
            metadata, length = _decoded(bytes(view))
        return RemoteMetadata(
            length,
            [Size(shape) for shape in metadata.shapes],
            [dtype_as_seen(dtype) for dtype in metadata.dtypes],
            metadata.fmt,
        )


def _decoded(encoded: bytes) -> tuple[ChunkMetadata, int]:
    length: int = _LENGTH.unpack_from(encoded.ljust(_LENGTH.size, b"\0"))[0]
    return decode_remote_metadata(encoded, length), length
