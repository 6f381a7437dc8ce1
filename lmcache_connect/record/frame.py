"""The frame of a stored record: a header, the payload, and a trailer with its checksum. All numbers are little-endian.

    offset  size  field
         0     4  magic "KVCF"
         4     1  version: 1 for a whole chunk, 2 for a piece of a striped one, 3 for the index of a spread one
         5     1  flags: bit 0: the trailer holds a checksum; bit 1: the record is a piece of a striped chunk
         6     2  header length in bytes, including its CRC
         8     8  length of the chunk's payload in bytes, all pieces together
        16    16  BLAKE2b-128 of the name under which the chunk is stored, in UTF-8
        32     8  generation: a random number of one put of a striped chunk; 0 for a whole one
        40     4  stripe size in bytes; 0 for a whole one
        44     4  index of the piece, from 0; 0 for a whole chunk
        48     1  memory format
        49     1  number of tensor groups
        50     2  number of pieces of a spread chunk; 0 for any other
        52     -  per group: dtype code (1), number of dimensions (1), reserved (2), dimensions (8 each)
         -     4  CRC-32 (zlib) of the header up to here
         -     -  payload
         -     8  XXH3-64 of the payload, or 0 where flag bit 0 is clear

The index of a spread chunk has no flags and no payload, and from offset 32 to 48 the random number of its put.

The checksum follows the payload, so that a sender and a receiver hash each piece while it is still in the CPU's cache.
Decoding never allocates memory by a number that was not checked, and raises only `FrameError`.
XXH3: https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md. BLAKE2b: RFC 7693.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import xxhash

from ..dtypes import DType, dtype_from_code
from ..errors import FrameError, InvalidShapeError
from ..metadata import MAX_DIMS, MAX_GROUPS, ChunkMetadata, MemoryFormat, Shape
from .spread import SpreadChunkError, SpreadPlan, checked_spread
from .stripes import StripePlan, checked_plan

MAGIC: Final = b"KVCF"
VERSION_WHOLE: Final = 1
VERSION_PIECE: Final = 2
VERSION_INDEX: Final = 3
FLAG_CHECKSUM: Final = 1
FLAG_STRIPED: Final = 2
_KNOWN_FLAGS: Final = FLAG_CHECKSUM | FLAG_STRIPED
_KNOWN_VERSIONS: Final = (VERSION_WHOLE, VERSION_PIECE, VERSION_INDEX)

_FIXED: Final = struct.Struct("<4sBBHQ16sQIIBBH")
_PUT: Final = struct.Struct("<QII")
"""The random number of a spread chunk's put, as the fields that stand there in other records."""

_GROUP: Final = struct.Struct("<BBH")
_CRC: Final = struct.Struct("<I")
_TRAILER: Final = struct.Struct("<Q")

TRAILER_BYTES: Final = _TRAILER.size
FIXED_HEADER_BYTES: Final = _FIXED.size
MIN_HEADER_BYTES: Final = _FIXED.size + _GROUP.size + 8 + _CRC.size
MAX_HEADER_BYTES: Final = _FIXED.size + MAX_GROUPS * (_GROUP.size + 8 * MAX_DIMS) + _CRC.size
DIGEST: Final = slice(16, 32)
"""The bytes of a header that hold the key's digest."""

_PIECE_INDEX: Final = slice(44, 48)

INDEX_BYTES: Final = MAX_HEADER_BYTES + TRAILER_BYTES
"""The longest index of a spread chunk."""

CRC_BYTES: Final = _CRC.size
"""The length of the CRC at the end of a header."""

OVERHEAD_BYTES: Final = MAX_HEADER_BYTES + TRAILER_BYTES
"""The most bytes of a record besides its payload."""


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """The facts of a header that was checked. Lengths are bytes.

    `metadata` describes the whole chunk. `payload_length` is the length of the payload in this record. `plan` is None
    for a chunk that is stored whole, and `index` then is 0.
    """

    metadata: ChunkMetadata
    length: int
    payload_length: int
    has_checksum: bool
    plan: StripePlan | None = None
    index: int = 0

    @property
    def is_striped(self) -> bool:
        """Whether the record is a piece of a striped chunk."""
        return self.plan is not None


class PayloadHasher:
    """Computes XXH3-64 of a payload from its pieces, which `update` takes in order."""

    __slots__ = ("_hash", "update")

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_64()
        self.update = self._hash.update

    def trailer(self) -> bytes:
        """The trailer for the pieces so far."""
        return _TRAILER.pack(self._hash.intdigest())

    def verify(self, trailer: bytes | memoryview) -> None:
        """Raises `FrameError` where `trailer` does not match the pieces so far."""
        (stored,) = _TRAILER.unpack(trailer)
        computed = self._hash.intdigest()
        if stored != computed:
            raise FrameError("checksum", f"the trailer says {stored:016x}, the payload gives {computed:016x}")


def payload_trailer(pieces: Sequence[memoryview]) -> bytes:
    """The trailer for a payload that lies in these buffers, in order."""
    if len(pieces) == 1:
        return _TRAILER.pack(xxhash.xxh3_64_intdigest(pieces[0]))
    hasher = PayloadHasher()
    for piece in pieces:
        hasher.update(piece)
    return hasher.trailer()


NO_CHECKSUM_TRAILER: Final = bytes(TRAILER_BYTES)
"""The trailer of a record without a checksum."""


def key_digest(key: str) -> bytes:
    """The 16 bytes that represent a key in the header."""
    return hashlib.blake2b(key.encode(), digest_size=16).digest()


def encode_header(
    key: str,
    metadata: ChunkMetadata,
    *,
    checksum: bool = True,
    plan: StripePlan | None = None,
    index: int = 0,
) -> bytes:
    """The header of one record of the chunk that is stored as `key`.

    Without a `plan` the record holds the whole chunk. With a plan it is piece `index`, from 0.
    """
    groups = _encode_groups(metadata)
    fixed = _FIXED.pack(
        MAGIC,
        VERSION_WHOLE if plan is None else VERSION_PIECE,
        (FLAG_CHECKSUM if checksum else 0) | (FLAG_STRIPED if plan is not None else 0),
        _FIXED.size + len(groups) + _CRC.size,
        metadata.nbytes,
        key_digest(key),
        0 if plan is None else plan.generation,
        0 if plan is None else plan.stripe_size,
        index,
        metadata.fmt,
        len(metadata.shapes),
        0,
    )
    header = fixed + groups
    return header + _CRC.pack(zlib.crc32(header))


def header_of_piece(header: bytes, index: int) -> bytes:
    """The header of piece `index` of the striped chunk that `header`, of any of its pieces, belongs to."""
    start = b"%b%b%b" % (
        header[: _PIECE_INDEX.start],
        index.to_bytes(4, "little"),
        header[_PIECE_INDEX.stop : -_CRC.size],
    )
    return start + _CRC.pack(zlib.crc32(start))


def header_length(prefix: bytes | bytearray | memoryview) -> int:
    """The length of a header in bytes, read from at least its first 8 bytes.

    Raises:
        FrameError: the bytes do not start a record, or one of another version, or the length is out of range.
    """
    if len(prefix) < 8:
        raise FrameError("short", f"{len(prefix)} bytes; a header has at least {MIN_HEADER_BYTES}", removable=False)
    magic, version, _, length = struct.unpack_from("<4sBBH", prefix)
    if magic != MAGIC:
        raise FrameError("magic", f"it starts with {bytes(magic)!r}, not {MAGIC!r}", removable=False)
    if version not in _KNOWN_VERSIONS:
        # A record of another version is valid data of another release. It is a miss here, and stays in the store.
        reads = f"this release reads {VERSION_WHOLE} to {VERSION_INDEX}"
        raise FrameError("version", f"version {version}; {reads}", removable=False)
    if not MIN_HEADER_BYTES <= length <= MAX_HEADER_BYTES:
        raise FrameError("header", f"a header of {length} bytes; expected {MIN_HEADER_BYTES} to {MAX_HEADER_BYTES}")
    return int(length)


def decode_header(header: bytes | bytearray | memoryview, key: str, record_length: int) -> FrameHeader:
    """The facts of a complete header, checked against the requested key and the record's length in bytes.

    Raises:
        FrameError: the first check that fails.
        SpreadChunkError: all is well, and the record is the index of a spread chunk.
    """
    length = header_length(header)
    if len(header) < length:
        raise FrameError("short", f"{len(header)} of {length} header bytes")
    crc = zlib.crc32(memoryview(header)[: length - _CRC.size])
    (stored_crc,) = _CRC.unpack_from(header, length - _CRC.size)
    if crc != stored_crc:
        raise FrameError("header", f"its CRC is {stored_crc:08x}, its bytes give {crc:08x}")
    (_, version, flags, _, payload, digest, generation, stripe_size, index, fmt, groups, pieces) = _FIXED.unpack_from(
        header
    )
    if flags & ~(0 if version == VERSION_INDEX else _KNOWN_FLAGS):
        raise FrameError("version", f"flags {flags:#x} are of a newer release", removable=False)
    if digest != key_digest(key):
        # An intact record of another key: the reply to another request, or of a writer who names chunks otherwise.
        raise FrameError("key", "it was written under another key", removable=False)
    metadata = _decode_groups(bytes(header[_FIXED.size : length - _CRC.size]), groups, fmt)
    if payload != metadata.nbytes:
        raise FrameError("length", f"a payload of {payload} bytes for shapes of {metadata.nbytes}")
    plan = None
    held = payload
    if version == VERSION_INDEX:
        if record_length != length + TRAILER_BYTES:
            raise FrameError("length", f"an index of {record_length} bytes; expected {length + TRAILER_BYTES}")
        raise SpreadChunkError(metadata, checked_spread(payload, pieces, _PUT.pack(generation, stripe_size, index)))
    if flags & FLAG_STRIPED:
        if version != VERSION_PIECE:
            raise FrameError("version", "a striped chunk of release 0.1", removable=False)
        plan = checked_plan(payload, stripe_size, generation)
        if index >= plan.pieces:
            raise FrameError("header", f"piece {index} of {plan.pieces}")
        start, end = plan.bounds(index)
        held = end - start
    elif stripe_size or index or generation or version != VERSION_WHOLE:
        raise FrameError("header", f"stripe size {stripe_size} and version {version} with flags {flags:#x}")
    if record_length != length + held + TRAILER_BYTES:
        raise FrameError(
            "length", f"the record has {record_length} bytes, its header says {length + held + TRAILER_BYTES}"
        )
    return FrameHeader(
        metadata=metadata,
        length=length,
        payload_length=held,
        has_checksum=bool(flags & FLAG_CHECKSUM),
        plan=plan,
        index=index,
    )


def encode_index(name: str, metadata: ChunkMetadata, plan: SpreadPlan) -> bytes:
    """The whole record that stands under `name` for a spread chunk, whose pieces are those of `plan`."""
    groups = _encode_groups(metadata)
    fixed = _FIXED.pack(
        MAGIC,
        VERSION_INDEX,
        0,
        _FIXED.size + len(groups) + _CRC.size,
        metadata.nbytes,
        key_digest(name),
        *_PUT.unpack(plan.put),
        metadata.fmt,
        len(metadata.shapes),
        plan.pieces,
    )
    header = fixed + groups
    return header + _CRC.pack(zlib.crc32(header)) + NO_CHECKSUM_TRAILER


def spread_plan(start: bytes, name: str) -> SpreadPlan | None:
    """The plan of the spread chunk that the record under `name` is the index of, by its first `FIXED_HEADER_BYTES`.

    None for any other record, and for fewer bytes. The header's CRC is not checked: the names of the pieces that follow
    from a damaged one are nobody's.
    """
    if len(start) != FIXED_HEADER_BYTES:
        return None
    (magic, version, flags, _, nbytes, digest, generation, stripe_size, index, _, _, pieces) = _FIXED.unpack(start)
    if magic != MAGIC or version != VERSION_INDEX or flags or digest != key_digest(name):
        return None
    try:
        return checked_spread(nbytes, pieces, _PUT.pack(generation, stripe_size, index))
    except FrameError:
        return None


@lru_cache(maxsize=1024)
def _encode_groups(metadata: ChunkMetadata) -> bytes:
    return b"".join(
        _GROUP.pack(dtype.code, len(shape), 0) + struct.pack(f"<{len(shape)}Q", *shape)
        for shape, dtype in zip(metadata.shapes, metadata.dtypes, strict=True)
    )


@lru_cache(maxsize=1024)
def _decode_groups(encoded: bytes, groups: int, fmt: int) -> ChunkMetadata:
    # Cached, because all chunks of one model have the same groups. Errors are not cached.
    if not 1 <= groups <= MAX_GROUPS:
        raise FrameError("header", f"{groups} tensor groups; expected 1 to {MAX_GROUPS}")
    shapes: list[Shape] = []
    dtypes: list[DType] = []
    offset = 0
    for _ in range(groups):
        if offset + _GROUP.size > len(encoded):
            raise FrameError("header", "it ends inside a tensor group")
        code, ndim, _ = _GROUP.unpack_from(encoded, offset)
        offset += _GROUP.size
        dtype = dtype_from_code(code)
        if dtype is None:
            raise FrameError("version", f"dtype code {code} is of a newer release", removable=False)
        if not 1 <= ndim <= MAX_DIMS or offset + 8 * ndim > len(encoded):
            raise FrameError("header", f"a tensor group of {ndim} dimensions; expected 1 to {MAX_DIMS}")
        shapes.append(struct.unpack_from(f"<{ndim}Q", encoded, offset))
        dtypes.append(dtype)
        offset += 8 * ndim
    if offset != len(encoded):
        raise FrameError("header", f"{len(encoded) - offset} bytes after the tensor groups")
    try:
        known = MemoryFormat(fmt)
    except ValueError:
        raise FrameError("version", f"memory format {fmt} is of a newer release", removable=False) from None
    try:
        return ChunkMetadata.of(shapes, dtypes, known)
    except InvalidShapeError as error:
        raise FrameError("header", error.reason) from None
