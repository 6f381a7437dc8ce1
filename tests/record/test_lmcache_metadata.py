"""LMCache's metadata of a chunk: what it can describe, and how other bytes are refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcache_connect import ChunkMetadata, CorruptRecordError, MemoryFormat
from lmcache_connect.dtypes import known_dtypes
from lmcache_connect.errors import InvalidShapeError, UnknownDtypeError
from lmcache_connect.record import MAX_REMOTE_METADATA_BYTES, decode_remote_metadata, encode_remote_metadata
from lmcache_connect.record.lmcache_metadata import REMOTE_DTYPES

shapes = st.lists(st.integers(1, 40), min_size=1, max_size=4).map(tuple)
groups = st.lists(st.tuples(shapes, st.sampled_from(REMOTE_DTYPES)), min_size=1, max_size=5)


@given(groups, st.sampled_from(MemoryFormat))
def test_what_is_encoded_is_decoded_to_the_same(pairs: list[tuple[tuple[int, ...], str]], fmt: MemoryFormat) -> None:
    metadata = ChunkMetadata.of([shape for shape, _ in pairs], [dtype for _, dtype in pairs], fmt)
    assert decode_remote_metadata(encode_remote_metadata(metadata), metadata.nbytes) == metadata


@given(st.binary(max_size=200), st.integers(0, 1 << 40))
def test_other_bytes_are_no_description_and_are_never_removed_since_nothing_says_whose_they_are(
    encoded: bytes, length: int
) -> None:
    with pytest.raises(CorruptRecordError) as caught:
        decode_remote_metadata(encoded, length)
    assert not caught.value.removable


@given(st.lists(st.integers(-(1 << 31), (1 << 31) - 1), min_size=6, max_size=26), st.integers(0, (1 << 31) - 1))
def test_numbers_whose_length_agrees_are_checked_against_the_shapes(numbers: list[int], length: int) -> None:
    encoded = struct.pack(f"<{len(numbers) + 1}i", length, *numbers)
    try:
        metadata = decode_remote_metadata(encoded, length)
    except CorruptRecordError:
        return
    assert metadata.nbytes == length


def test_half_is_read_by_both_of_its_codes_and_written_by_the_second() -> None:
    half = ChunkMetadata.of((2, 2, 4, 4), "half")
    assert encode_remote_metadata(half) == struct.pack("<7i", 128, 1, 2, 2, 2, 4, 4)
    assert decode_remote_metadata(struct.pack("<7i", 128, 1, 1, 2, 2, 4, 4), 128) == half


def test_a_dtype_is_left_out_for_byte_buffers_alone() -> None:
    buffer = ChunkMetadata.of((37,), "uint8", MemoryFormat.BINARY_BUFFER)
    assert encode_remote_metadata(buffer) == struct.pack("<7i", 37, 5, 0, 37, 0, 0, 0)
    for fmt in (MemoryFormat.BINARY, MemoryFormat.BINARY_BUFFER):
        decoded = decode_remote_metadata(struct.pack("<7i", 37, fmt, 0, 37, 0, 0, 0), 37)
        assert decoded == ChunkMetadata.of((37,), "uint8", fmt)
    with pytest.raises(CorruptRecordError, match="dtype code 0"):
        decode_remote_metadata(struct.pack("<7i", 37, MemoryFormat.KV_2LTD, 0, 37, 0, 0, 0), 37)


@pytest.mark.parametrize("dtype", sorted(set(known_dtypes()) - set(REMOTE_DTYPES)))
def test_a_dtype_without_a_code_is_refused_with_those_that_have_one(dtype: str) -> None:
    with pytest.raises(UnknownDtypeError) as caught:
        encode_remote_metadata(ChunkMetadata.of((4,), dtype))
    assert caught.value.known == REMOTE_DTYPES


@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (1 << 31,), (1 << 16, 1 << 15)])
def test_a_shape_that_does_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidShapeError, match="at most"):
        encode_remote_metadata(ChunkMetadata.of(shape, "uint8"))


def test_the_largest_description_is_one_of_as_many_groups_as_a_chunk_may_have() -> None:
    metadata = ChunkMetadata.of([(2, 2, 2, 2)] * 64, "half")
    encoded = encode_remote_metadata(metadata)
    assert len(encoded) == MAX_REMOTE_METADATA_BYTES
    assert decode_remote_metadata(encoded, metadata.nbytes) == metadata
    with pytest.raises(CorruptRecordError):
        decode_remote_metadata(encoded + encoded[-20:], metadata.nbytes)
