"""How a chunk is stored: the frame around its bytes, large chunks in parts, and LMCache's own metadata.

Encoding and decoding only; there is no I/O in here. Imported by `compat`, `lmcache_connect_redis`, `lmcache_connect_s3`
and `lmcache_reference_connectors`. Authors of connectors may use it, too.
"""

from __future__ import annotations

from .frame import (
    CRC_BYTES,
    DIGEST,
    FIXED_HEADER_BYTES,
    MAGIC,
    MAX_HEADER_BYTES,
    MIN_HEADER_BYTES,
    NO_CHECKSUM_TRAILER,
    OVERHEAD_BYTES,
    TRAILER_BYTES,
    FrameHeader,
    PayloadHasher,
    decode_header,
    encode_header,
    glance_plan,
    header_length,
    key_digest,
)
from .lmcache_metadata import MAX_REMOTE_METADATA_BYTES, decode_remote_metadata, encode_remote_metadata
from .stripes import MIN_STRIPE_BYTES, StripePlan, is_part_name
from .whole_record import decode_part, decode_record, encode_record

__all__ = [
    "CRC_BYTES",
    "DIGEST",
    "FIXED_HEADER_BYTES",
    "MAGIC",
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
