"""How a chunk is stored: the frame around its bytes, large chunks in pieces, names, and LMCache's own metadata.

Encoding and decoding only; there is no I/O in here. Imported by `compat`, `lmcache_connect_redis`, `lmcache_connect_s3`
and `lmcache_reference_connectors`. Authors of connectors may use it, too.
"""

from __future__ import annotations

from .frame import (
    CRC_BYTES,
    DIGEST,
    FIXED_HEADER_BYTES,
    INDEX_BYTES,
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
    encode_index,
    header_length,
    header_of_piece,
    key_digest,
    payload_trailer,
    spread_plan,
)
from .lmcache_metadata import (
    MAX_REMOTE_METADATA_BYTES,
    REMOTE_DTYPE_CODES,
    decode_remote_metadata,
    encode_remote_metadata,
)
from .names import (
    END_OF_NAMES,
    PIECES_PATTERN,
    chunk_names,
    chunk_of_piece,
    key_of_name,
    piece_names,
    staging_name,
    start_of_names,
)
from .spread import MAX_SPREAD, SpreadChunkError, SpreadPlan
from .stripes import MIN_STRIPE_BYTES, StripePlan
from .whole_record import decode_piece, decode_record, encode_record, encode_views

__all__ = [
    "CRC_BYTES",
    "DIGEST",
    "END_OF_NAMES",
    "FIXED_HEADER_BYTES",
    "INDEX_BYTES",
    "MAGIC",
    "MAX_HEADER_BYTES",
    "MAX_REMOTE_METADATA_BYTES",
    "MAX_SPREAD",
    "MIN_HEADER_BYTES",
    "MIN_STRIPE_BYTES",
    "NO_CHECKSUM_TRAILER",
    "OVERHEAD_BYTES",
    "PIECES_PATTERN",
    "REMOTE_DTYPE_CODES",
    "TRAILER_BYTES",
    "FrameHeader",
    "PayloadHasher",
    "SpreadChunkError",
    "SpreadPlan",
    "StripePlan",
    "chunk_names",
    "chunk_of_piece",
    "decode_header",
    "decode_piece",
    "decode_record",
    "decode_remote_metadata",
    "encode_header",
    "encode_index",
    "encode_record",
    "encode_remote_metadata",
    "encode_views",
    "header_length",
    "header_of_piece",
    "key_digest",
    "key_of_name",
    "payload_trailer",
    "piece_names",
    "spread_plan",
    "staging_name",
    "start_of_names",
]
