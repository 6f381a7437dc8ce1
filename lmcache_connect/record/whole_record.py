"""Whole records: encoded and decoded in one step, for connectors that value simplicity over speed."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import FrameError
from ..memory import MemoryObj
from ..metadata import ChunkMetadata
from .frame import (
    MAX_HEADER_BYTES,
    NO_CHECKSUM_TRAILER,
    FrameHeader,
    PayloadHasher,
    decode_header,
    encode_header,
)


def encode_record(key: str, obj: MemoryObj, *, checksum: bool = True) -> bytes:
    """The record of a chunk, as new bytes. Copies the payload once."""
    return encode_views(key, obj.metadata, (obj.byte_array,), checksum=checksum)


def encode_views(key: str, metadata: ChunkMetadata, views: Sequence[memoryview], *, checksum: bool = True) -> bytes:
    """The record of a chunk whose bytes are those of `views`, one after the other, as new bytes."""
    hasher = PayloadHasher()
    if checksum:
        for view in views:
            hasher.update(view)
    trailer = hasher.trailer() if checksum else NO_CHECKSUM_TRAILER
    return b"".join((encode_header(key, metadata, checksum=checksum), *views, trailer))


def decode_record(key: str, record: bytes | memoryview) -> tuple[ChunkMetadata, memoryview]:
    """The metadata and the payload of a chunk's record, after all checks. The payload is a view of `record`.

    Raises:
        FrameError: a check fails. A connector lets it pass: the manager makes a miss of it. Also raised for a record
            that belongs to a striped chunk, which `decode_piece` reads.
    """
    header, payload = decode_piece(key, record)
    if header.is_striped:
        raise FrameError("striped", "the record is one piece of a chunk", removable=False)
    return header.metadata, payload


def decode_piece(key: str, record: bytes | memoryview) -> tuple[FrameHeader, memoryview]:
    """The header and the payload of a whole chunk or of a piece, after all checks. The payload is a view of `record`.

    Raises:
        FrameError: a check fails.
    """
    view = memoryview(record)
    header = decode_header(view[:MAX_HEADER_BYTES], key, len(view))
    payload = view[header.length : header.length + header.payload_length]
    if header.has_checksum:
        hasher = PayloadHasher()
        hasher.update(payload)
        hasher.verify(view[header.length + header.payload_length :])
    return header, payload
