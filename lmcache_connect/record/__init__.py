"""The stored record: the frame around a chunk, large chunks in pieces, and LMCache's own metadata.

Pure encoding and decoding, without any I/O. Imported by the adapters, by `compat`, and by authors of connectors.
"""

from __future__ import annotations

from .frame import (
    CRC_BYTES,
    DIGEST,
    FIXED_HEADER_BYTES,
    MAX_HEADER_BYTES,
    MIN_HEADER_BYTES,
    NO_CHECKSUM_TRAILER,
    OVERHEAD_BYTES,
    TRAILER_BYTES,
    FrameHeader,
    PayloadHasher,
    decode_header,
    decode_part,
    decode_record,
    encode_header,
    encode_record,
    glance_plan,
    header_length,
    key_digest,
)
from .lmcache_metadata import MAX_REMOTE_METADATA_BYTES, decode_remote_metadata, encode_remote_metadata
from .stripes import MIN_STRIPE_BYTES, StripePlan, is_part_name

__all__ = [
    "CRC_BYTES",
    "DIGEST",
    "FIXED_HEADER_BYTES",
    "MAX_HEADER_BYTES",
    "MAX_REMOTE_METADATA_BYTES",
    "MIN_HEADER_BYTES",
    "MIN_STRIPE_BYTES",
    "NO_CHECKSUM_TRAILER",
    "OVERHEAD_BYTES",
    "TRAILER_BYTES",
    "FrameHeader",
    "PayloadHasher",
    "StripePlan",
    "decode_header",
    "decode_part",
    "decode_record",
    "decode_remote_metadata",
    "encode_header",
    "encode_record",
    "encode_remote_metadata",
    "glance_plan",
    "header_length",
    "is_part_name",
    "key_digest",
]
