"""How a chunk is stored: the frame around its bytes, large chunks in pieces, names, and LMCache's own metadata.

Encoding and decoding only; there is no I/O in here. Imported by `compat`, `lmcache_connect_redis`, `lmcache_connect_s3`
and `lmcache_reference_connectors`. Authors of connectors may use it, too.
"""

from __future__ import annotations

from .frame import (
    CRC_BYTES,
    DIGEST,
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
    header_length,
    key_digest,
)
from .lmcache_metadata import (
    MAX_REMOTE_METADATA_BYTES,
    REMOTE_DTYPE_CODES,
    decode_remote_metadata,
    encode_remote_metadata,
)
from .names import END_OF_NAMES, chunk_names, key_of_name, staging_name, start_of_names
from .stripes import MIN_STRIPE_BYTES, StripePlan
from .whole_record import decode_piece, decode_record, encode_record, encode_views

__all__ = [
    "CRC_BYTES",
    "DIGEST",
    "END_OF_NAMES",
    "MAGIC",
    "MAX_HEADER_BYTES",
    "MAX_REMOTE_METADATA_BYTES",
    "MIN_HEADER_BYTES",
    "MIN_STRIPE_BYTES",
    "NO_CHECKSUM_TRAILER",
    "OVERHEAD_BYTES",
    "REMOTE_DTYPE_CODES",
    "TRAILER_BYTES",
    "FrameHeader",
    "PayloadHasher",
    "StripePlan",
    "chunk_names",
    "decode_header",
    "decode_piece",
    "decode_record",
    "decode_remote_metadata",
    "encode_header",
    "encode_record",
    "encode_remote_metadata",
    "encode_views",
    "header_length",
    "key_digest",
    "key_of_name",
    "staging_name",
    "start_of_names",
]
