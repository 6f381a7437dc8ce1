"""The frame of a stored record: what was written is read back, and anything else is refused."""

from __future__ import annotations

import itertools
import math
import random
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from typing import Final

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcache_connect import ChunkMetadata, LocalCPUBackend, MemoryFormat
from lmcache_connect.dtypes import dtype_from_code, known_dtypes
from lmcache_connect.errors import FrameError
from lmcache_connect.metadata import MAX_CHUNK_BYTES, MAX_DIMS, MAX_GROUPS, Shape
from lmcache_connect.record import (
    MAX_HEADER_BYTES,
    MIN_HEADER_BYTES,
    MIN_STRIPE_BYTES,
    NO_CHECKSUM_TRAILER,
    OVERHEAD_BYTES,
    TRAILER_BYTES,
    PayloadHasher,
    StripePlan,
    decode_header,
    decode_piece,
    decode_record,
    encode_header,
    encode_record,
    header_length,
    header_of_piece,
    key_digest,
)
from lmcache_connect.record.frame import FLAG_CHECKSUM, FLAG_STRIPED, MAGIC, VERSION_PIECE, VERSION_WHOLE
from lmcache_connect.record.stripes import MAX_PIECES

KEY: Final = "meta-llama/Llama-3.1-8B@1@0@abc123@bfloat16"

GROUPS: Final[tuple[list[Shape], list[str]]] = ([(2, 1, 2, 3), (2, 1, 2, 1)], ["bfloat16", "uint8"])
GOLDEN: Final = bytes.fromhex(
    "4b564346" "01" "01" "8000" "1c00000000000000"  # magic, version, flags, header length, payload length
    "554d74ccb7705a75f7cdf5732a73bbbc"  # the key's digest
    "0000000000000000" "00000000" "00000000"  # generation, stripe size, part index
    "01" "02" "0000"  # memory format, groups, reserved
    "02" "04" "0000" "0200000000000000" "0100000000000000" "0200000000000000" "0300000000000000"
    "05" "04" "0000" "0200000000000000" "0100000000000000" "0200000000000000" "0100000000000000"
    "bd255775"  # the header's CRC
    "000102030405060708090a0b0c0d0e0f101112131415161718191a1b"  # the payload
    "d86d88a65a1c6a00"  # its XXH3-64
)  # fmt: skip
"""A record as the first release wrote it. Stores are full of them: these bytes must never change."""

GOLDEN_PIECE: Final = bytes.fromhex(
    "4b56434602034400" "0500100000000000" "847ab80c361c7f307992efbdafd9d9bc" "0807060504030201"
    "00001000" "01000000" "00010000" "050100000500100000000000" "6584cec7"
)  # fmt: skip
"""The header of the second piece of a striped chunk: it has the chunk's own length, key and groups."""


@pytest.fixture(scope="module")
def backend() -> Iterator[LocalCPUBackend]:
    with LocalCPUBackend(4 << 20) as backend:
        yield backend
        assert backend.statistics().reserved == 0


def record_of(
    backend: LocalCPUBackend,
    payload: bytes,
    shapes: object = None,
    dtypes: object = "uint8",
    *,
    key: str = KEY,
    checksum: bool = True,
) -> bytes:
    obj = backend.allocate(shapes or (len(payload),), dtypes)
    assert obj is not None
    with obj:
        obj.byte_array[:] = payload
        return encode_record(key, obj, checksum=checksum)


def with_valid_crc(record: bytes | bytearray) -> bytes:
    """The record with a correct header CRC, so that the checks after the CRC are tested alone."""
    (length,) = struct.unpack_from("<H", record, 6)
    fixed = bytearray(record)
    if 4 <= length <= len(fixed):
        struct.pack_into("<I", fixed, length - 4, zlib.crc32(fixed[: length - 4]))
    return bytes(fixed)


def changed(record: bytes, offset: int, layout: str, *values: int) -> bytes:
    copy = bytearray(record)
    struct.pack_into(f"<{layout}", copy, offset, *values)
    return with_valid_crc(copy)


# --------------------------------------------------------------------------------------------- golden bytes


def test_the_bytes_of_a_record_never_change(backend: LocalCPUBackend) -> None:
    assert record_of(backend, bytes(range(28)), *GROUPS) == GOLDEN
    metadata, payload = decode_record(KEY, GOLDEN)
    assert metadata == ChunkMetadata.of(*GROUPS)
    assert bytes(payload) == bytes(range(28))


def test_the_bytes_of_a_striped_header_never_change() -> None:
    key, metadata = "m@1@0@ab@half", ChunkMetadata.of(((1 << 20) + 5,), "uint8")
    plan = StripePlan(metadata.nbytes, 1 << 20, 0x0102030405060708)
    assert encode_header(key, metadata, plan=plan, index=1) == GOLDEN_PIECE
    found = decode_header(GOLDEN_PIECE, key, len(GOLDEN_PIECE) + 5 + TRAILER_BYTES)
    assert (found.is_striped, found.plan, found.index, found.payload_length) == (True, plan, 1, 5)
    assert (found.metadata, found.length) == (metadata, len(GOLDEN_PIECE))


def test_the_documented_offsets_hold() -> None:
    assert GOLDEN[:4] == MAGIC
    assert GOLDEN[4] == VERSION_WHOLE
    assert struct.unpack_from("<HQ", GOLDEN, 6) == (128, 28)
    assert GOLDEN[16:32] == key_digest(KEY)
    assert struct.unpack_from("<I", GOLDEN, 124)[0] == zlib.crc32(GOLDEN[:124])
    assert struct.unpack_from("<Q", GOLDEN, 156)[0] == xxhash.xxh3_64_intdigest(GOLDEN[128:156])


# ---------------------------------------------------------------------------------------------- round trips

small_shapes = st.lists(st.integers(1, 6), min_size=1, max_size=MAX_DIMS).map(tuple).filter(
    lambda shape: math.prod(shape) <= 4096
)  # fmt: skip
groups = st.lists(st.tuples(small_shapes, st.sampled_from(known_dtypes())), min_size=1, max_size=6)


@given(groups, st.sampled_from(MemoryFormat), st.booleans(), st.text(min_size=1, max_size=30), st.integers(0, 255))
@settings(max_examples=150, deadline=None)
def test_every_chunk_comes_back_as_it_was(
    groups: list[tuple[Shape, str]], fmt: MemoryFormat, checksum: bool, key: str, fill: int
) -> None:
    try:
        key.encode()
    except UnicodeEncodeError:
        key = KEY
    metadata = ChunkMetadata.of([shape for shape, _ in groups], [dtype for _, dtype in groups], fmt)
    with LocalCPUBackend(1 << 20) as backend:
        obj = backend.allocate_chunk(metadata)
        assert obj is not None
        with obj:
            payload = random.Random(fill).randbytes(metadata.nbytes)
            obj.byte_array[:] = payload
            record = encode_record(key, obj, checksum=checksum)
    assert len(record) <= metadata.nbytes + OVERHEAD_BYTES
    found, view = decode_record(key, record)
    assert found == metadata
    assert view == payload
    header = decode_header(record[:MAX_HEADER_BYTES], key, len(record))
    assert header.has_checksum is checksum
    assert header_length(record[:8]) == header.length
    assert (header.length + header.payload_length + TRAILER_BYTES) == len(record)
    assert (header.is_striped, header.plan, header.index) == (False, None, 0)
    assert checksum or record[-TRAILER_BYTES:] == NO_CHECKSUM_TRAILER


def test_the_largest_header_and_the_smallest_are_read_back() -> None:
    for metadata, length in (
        (ChunkMetadata.of([(1,) * MAX_DIMS] * MAX_GROUPS, "uint8"), MAX_HEADER_BYTES),
        (ChunkMetadata.of((1,), "uint8"), MIN_HEADER_BYTES),
        (ChunkMetadata.of((MAX_CHUNK_BYTES,), "uint8"), MIN_HEADER_BYTES),
    ):
        header = encode_header(KEY, metadata)
        assert len(header) == length
        found = decode_header(header, KEY, length + metadata.nbytes + TRAILER_BYTES)
        assert found.metadata == metadata


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_the_payload_is_a_view_of_the_record(kind: type) -> None:
    _, payload = decode_record(KEY, kind(GOLDEN))
    assert isinstance(payload, memoryview)
    assert payload.nbytes == 28
    obj = payload.obj
    assert len(obj) == len(GOLDEN)  # type: ignore[arg-type]  # the record itself, of whatever kind


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=4))
def test_hashing_piece_by_piece_gives_the_trailer_of_the_whole(payload: bytes, cuts: list[int]) -> None:
    hasher = PayloadHasher()
    for start, end in itertools.pairwise([0, *sorted(cuts), len(payload) + 300]):
        hasher.update(payload[start:end])
    assert hasher.trailer() == struct.pack("<Q", xxhash.xxh3_64_intdigest(payload))
    hasher.verify(hasher.trailer())
    with pytest.raises(FrameError) as caught:
        hasher.verify(bytes([hasher.trailer()[0] ^ 1]) + hasher.trailer()[1:])
    assert caught.value.reason == "checksum"


# ------------------------------------------------------------------------------------------------- damage


def test_a_single_flipped_bit_anywhere_is_found(backend: LocalCPUBackend) -> None:
    one_group = record_of(backend, b"payload", key="k")
    for key, record in ((KEY, GOLDEN), ("k", one_group)):
        for position in range(8 * len(record)):
            flipped = bytearray(record)
            flipped[position // 8] ^= 1 << position % 8
            with pytest.raises(FrameError):
                decode_record(key, bytes(flipped))


def test_a_single_flipped_bit_in_the_header_is_found_also_without_a_checksum(backend: LocalCPUBackend) -> None:
    record = record_of(backend, b"payload", checksum=False)
    for position in range(8 * header_length(record)):
        flipped = bytearray(record)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(FrameError):
            decode_record(KEY, bytes(flipped))


@pytest.mark.parametrize("checksum", [True, False])
def test_a_record_cut_short_or_too_long_is_found(backend: LocalCPUBackend, checksum: bool) -> None:
    record = record_of(backend, bytes(range(28)), *GROUPS, checksum=checksum)
    for length in range(len(record)):
        with pytest.raises(FrameError):
            decode_record(KEY, record[:length])
        with pytest.raises(FrameError):
            decode_record(KEY, record[length + 1 :])
    for extra in (b"\0", b"x", bytes(TRAILER_BYTES), record):
        with pytest.raises(FrameError) as caught:
            decode_record(KEY, record + extra)
        assert caught.value.reason == "length"


def test_two_payloads_exchanged_are_found(backend: LocalCPUBackend) -> None:
    one, other = record_of(backend, b"one"), record_of(backend, b"two")
    with pytest.raises(FrameError) as caught:
        decode_record(KEY, one[:-11] + other[-11:-8] + one[-8:])
    assert caught.value.reason == "checksum"


def test_a_record_of_another_key_is_found_and_not_removed_since_it_is_whole() -> None:
    for key in ("", "k", KEY + " ", KEY.upper(), KEY[:-1]):
        with pytest.raises(FrameError) as caught:
            decode_record(key, GOLDEN)
        assert caught.value.reason == "key"
        assert not caught.value.removable


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"", "short"),
        (GOLDEN[:7], "short"),
        (GOLDEN[:100], "short"),
        (b"\x80\x04K" + GOLDEN[3:], "magic"),
        (changed(GOLDEN, 6, "H", MIN_HEADER_BYTES - 1), "header"),
        (changed(GOLDEN, 6, "H", MAX_HEADER_BYTES + 1), "header"),
        (GOLDEN[:124] + b"\0\0\0\0" + GOLDEN[128:], "header"),
        (changed(GOLDEN, 8, "Q", 27), "length"),
        (changed(GOLDEN, 8, "Q", (1 << 64) - 1), "length"),
        (changed(GOLDEN, 49, "B", 0), "header"),
        (changed(GOLDEN, 49, "B", 1), "header"),
        (changed(GOLDEN, 49, "B", 3), "header"),
        (changed(GOLDEN, 49, "B", 255), "header"),
        (changed(GOLDEN, 53, "B", 0), "header"),
        (changed(GOLDEN, 53, "B", 9), "header"),
        (changed(GOLDEN, 53, "B", 5), "version"),  # the next group then starts inside a dimension
        (changed(GOLDEN, 56, "Q", 0), "header"),
        (changed(GOLDEN, 56, "Q", (1 << 64) - 1), "header"),
        (changed(GOLDEN, 56, "QQQQ", 1 << 39, 1 << 39, 1 << 39, 1 << 39), "header"),
        (changed(GOLDEN, 56, "Q", 4), "length"),
        (changed(GOLDEN, 40, "I", 1 << 20), "header"),
        (changed(GOLDEN, 32, "Q", 7), "header"),
        (changed(GOLDEN, 44, "I", 1), "header"),
        (changed(GOLDEN, 5, "B", FLAG_CHECKSUM | FLAG_STRIPED), "version"),  # as the first release wrote large chunks
        (changed(GOLDEN, 4, "B", VERSION_PIECE), "header"),
    ],
)
def test_numbers_that_do_not_fit_are_found_behind_a_valid_crc(record: bytes, reason: str) -> None:
    with pytest.raises(FrameError) as caught:
        decode_record(KEY, record)
    assert caught.value.reason == reason
    assert str(caught.value) == f"the stored record does not verify ({reason}): {caught.value.detail}"


@pytest.mark.parametrize(
    ("record", "named"),
    [
        (changed(GOLDEN, 4, "B", 4), "version 4"),
        (changed(GOLDEN, 4, "B", 3), "flags 0x1"),
        (changed(GOLDEN, 4, "B", 0), "version 0"),
        (changed(GOLDEN, 5, "B", FLAG_CHECKSUM | 4), "flags 0x5"),
        (changed(GOLDEN, 5, "B", 0xFF), "flags 0xff"),
        (changed(GOLDEN, 52, "B", 200), "dtype code 200"),
        (changed(GOLDEN, 52, "B", 0), "dtype code 0"),
        (changed(GOLDEN, 48, "B", 200), "memory format 200"),
    ],
)
def test_a_record_of_a_newer_release_is_not_read_and_not_removed(record: bytes, named: str) -> None:
    with pytest.raises(FrameError, match=named) as caught:
        decode_record(KEY, record)
    assert caught.value.reason == "version"
    assert not caught.value.removable


@pytest.mark.parametrize("record", [b"", b"hello", GOLDEN[:7], b"KVCG" + GOLDEN[4:], b"<html>" * 40, GOLDEN[1:]])
def test_what_does_not_carry_our_magic_is_not_removed(record: bytes) -> None:
    with pytest.raises(FrameError) as caught:
        decode_record(KEY, record)
    assert caught.value.reason in ("short", "magic")
    assert not caught.value.removable


@pytest.mark.parametrize(
    "record",
    [
        GOLDEN[:8],
        GOLDEN[:60],
        GOLDEN[:-1],
        GOLDEN + b"x",
        GOLDEN[:-1] + b"\1",
        changed(GOLDEN, 56, "Q", 0),
        changed(GOLDEN, 6, "H", MIN_HEADER_BYTES - 1),
        GOLDEN[:50] + b"\1" + GOLDEN[51:],
    ],
)
def test_a_damaged_record_with_our_magic_and_version_may_be_removed(record: bytes) -> None:
    with pytest.raises(FrameError) as caught:
        decode_record(KEY, record)
    assert caught.value.removable


def striped(index: int, payload: bytes, plan: StripePlan) -> bytes:
    start, end = plan.bounds(index)
    hasher = PayloadHasher()
    hasher.update(payload[start:end])
    header = encode_header(KEY, ChunkMetadata.of((plan.nbytes,), "uint8"), plan=plan, index=index)
    return header + payload[start:end] + hasher.trailer()


PLAN: Final = StripePlan(2 * MIN_STRIPE_BYTES + 5, MIN_STRIPE_BYTES, 7)
PAYLOAD: Final = random.Random(1).randbytes(PLAN.nbytes)


def test_the_header_of_a_piece_follows_from_that_of_another_piece() -> None:
    metadata = ChunkMetadata.of((3, 1 << 20), "bfloat16")
    plan = StripePlan(metadata.nbytes, 1 << 20, 0xFEDC_BA98)
    for checksum in (True, False):
        headers = [
            encode_header(KEY, metadata, plan=plan, index=index, checksum=checksum) for index in range(plan.pieces)
        ]
        assert [header_of_piece(headers[0], index) for index in range(plan.pieces)] == headers
        assert header_of_piece(headers[-1], 0) == headers[0]


def test_a_striped_chunk_is_read_back_piece_by_piece() -> None:
    assert PLAN.pieces == 3
    found = b""
    for index in range(3):
        header, payload = decode_piece(KEY, striped(index, PAYLOAD, PLAN))
        assert (header.plan, header.index, header.payload_length) == (PLAN, index, len(payload))
        assert header.metadata.nbytes == PLAN.nbytes
        found += payload
    assert found == PAYLOAD


def test_a_piece_is_no_whole_record_and_is_not_removed() -> None:
    for index in range(3):
        with pytest.raises(FrameError, match="one piece of a chunk") as caught:
            decode_record(KEY, striped(index, PAYLOAD, PLAN))
        assert not caught.value.removable


def test_a_damaged_piece_is_found() -> None:
    record = striped(2, PAYLOAD, PLAN)  # the last one is short
    for position in range(8 * len(record)):
        flipped = bytearray(record)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(FrameError):
            decode_piece(KEY, bytes(flipped))
    for length in range(len(record)):
        with pytest.raises(FrameError):
            decode_piece(KEY, record[:length])
    with pytest.raises(FrameError):
        decode_piece(KEY, record + b"x")


@pytest.mark.parametrize(
    ("offset", "layout", "number"),
    [
        (44, "I", 3),  # there are three pieces
        (44, "I", (1 << 32) - 1),
        (40, "I", MIN_STRIPE_BYTES - 1),
        (40, "I", 0),
        (5, "B", FLAG_CHECKSUM),
    ],
)
def test_a_plan_that_no_writer_makes_is_found_behind_a_valid_crc(offset: int, layout: str, number: int) -> None:
    for index in (0, 2):
        with pytest.raises(FrameError) as caught:
            decode_piece(KEY, changed(striped(index, PAYLOAD, PLAN), offset, layout, number))
        assert caught.value.reason == "header"


def test_a_piece_of_the_first_release_is_of_another_version_and_stays() -> None:
    with pytest.raises(FrameError) as caught:
        decode_piece(KEY, changed(striped(1, PAYLOAD, PLAN), 4, "B", VERSION_WHOLE))
    assert (caught.value.reason, caught.value.removable) == ("version", False)


def test_a_plan_has_at_most_so_many_pieces() -> None:
    too_long = ChunkMetadata.of(((MAX_PIECES + 1) * MIN_STRIPE_BYTES,), "uint8")
    plan = StripePlan(too_long.nbytes, MIN_STRIPE_BYTES, 7)
    header = encode_header(KEY, too_long, plan=plan, index=1)
    with pytest.raises(FrameError, match="in stripes of"):
        decode_header(header, KEY, len(header) + MIN_STRIPE_BYTES + TRAILER_BYTES)


def test_errors_are_not_remembered_for_a_later_good_record() -> None:
    for _ in range(2):
        with pytest.raises(FrameError):
            decode_record(KEY, changed(GOLDEN, 52, "B", 200))
        decode_record(KEY, GOLDEN)


# ------------------------------------------------------------------------------------------ arbitrary bytes


def decoded_or_refused(record: bytes) -> bool:
    """Whether the record decodes. If it does, checks every number in it against its bytes."""
    refused = None
    metadata, payload = ChunkMetadata.of((1,), "uint8"), memoryview(b"")
    try:
        metadata, payload = decode_record(KEY, record)
    except FrameError as error:
        refused = error.reason
    if refused is not None:
        assert refused in {"short", "magic", "version", "header", "key", "length", "checksum", "striped"}
        return False
    assert payload.nbytes == metadata.nbytes < len(record)
    return True


@given(st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes_give_a_frame_error_and_nothing_else(record: bytes) -> None:
    assert not decoded_or_refused(record)


@given(st.integers(0, len(GOLDEN)), st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_a_valid_beginning_with_arbitrary_bytes_behind_it_gives_a_frame_error(length: int, rest: bytes) -> None:
    record = GOLDEN[:length] + rest
    assert decoded_or_refused(record) is (record == GOLDEN)


numbers = st.one_of(
    st.integers(0, 255), st.sampled_from([0, 1, (1 << 16) - 1, (1 << 31), (1 << 40) + 1, (1 << 63), (1 << 64) - 1])
)


@given(
    st.lists(st.tuples(st.integers(4, 120), st.sampled_from("BHIQ"), numbers), min_size=1, max_size=4), st.booleans()
)
@settings(max_examples=500, deadline=None)
def test_arbitrary_numbers_behind_a_valid_crc_give_a_frame_error_or_the_truth(
    writes: list[tuple[int, str, int]], keep_key: bool
) -> None:
    record = bytearray(GOLDEN)
    for offset, layout, number in writes:
        size = struct.calcsize(f"<{layout}")
        struct.pack_into(f"<{layout}", record, min(offset, 124 - size), number % (1 << 8 * size))
    if keep_key:
        record[16:32] = key_digest(KEY)
    decoded_or_refused(with_valid_crc(record))


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_header_made_of_arbitrary_groups_gives_a_frame_error_or_the_truth(data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 255) | st.integers(0, 3))
    body = bytearray()
    for _ in range(data.draw(st.integers(0, 4))):
        code, ndim = data.draw(st.integers(0, 20)), data.draw(st.integers(0, 10))
        body += struct.pack("<BBH", code, ndim, 0)
        body += b"".join(struct.pack("<Q", data.draw(numbers)) for _ in range(min(ndim, 9)))
    length = 52 + len(body) + 4
    payload = data.draw(numbers)
    fixed = struct.pack("<4sBBHQ16sQIIBBH", MAGIC, 1, 0, length, payload, key_digest(KEY), 0, 0, 0, 0, count, 0)
    record = with_valid_crc(fixed + body + bytes(4)) + bytes(min(payload, 500) + TRAILER_BYTES)
    decoded_or_refused(record)


@pytest.mark.parametrize(
    "record",
    [
        changed(GOLDEN, 8, "Q", 1 << 50),
        changed(GOLDEN, 8, "Q", (1 << 64) - 1),
        changed(GOLDEN, 56, "QQQQ", *[(1 << 64) - 1] * 4),
        changed(GOLDEN, 49, "B", 255),
        changed(GOLDEN, 53, "B", 255),
        changed(GOLDEN, 40, "I", (1 << 32) - 1),
        changed(GOLDEN, 6, "H", (1 << 16) - 1),
    ],
)
def test_nothing_is_allocated_from_a_number_that_was_not_checked(record: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(FrameError):
            decode_record(KEY, record)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200_000


def test_a_good_header_for_another_length_of_record_is_refused_before_anything_is_received() -> None:
    header = GOLDEN[:128]
    assert decode_header(header, KEY, len(GOLDEN)).payload_length == 28
    for length in (0, 128, len(GOLDEN) - 1, len(GOLDEN) + 1, 1 << 60):
        with pytest.raises(FrameError) as caught:
            decode_header(header, KEY, length)
        assert caught.value.reason == "length"


def test_every_dtype_code_of_a_record_is_a_known_dtype() -> None:
    assert [dtype_from_code(code).name for code in (GOLDEN[52], GOLDEN[88])] == ["bfloat16", "uint8"]  # type: ignore[union-attr]
