"""The index of a spread chunk, and the names of its pieces."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace

import pytest

from lmcache_connect import ChunkMetadata
from lmcache_connect.errors import FrameError
from lmcache_connect.record import (
    FIXED_HEADER_BYTES,
    INDEX_BYTES,
    SpreadChunkError,
    SpreadPlan,
    chunk_names,
    chunk_of_piece,
    decode_record,
    encode_index,
    key_of_name,
    piece_names,
    spread_plan,
    staging_name,
)

MIB = 1 << 20
METADATA = ChunkMetadata.of((2, 4, MIB), "bfloat16")
[NAME] = chunk_names("tenant:", ["a{b}c"])
PLAN = SpreadPlan(METADATA.nbytes, 3, bytes(range(16)))


def changed(offset: int, kind: str, *values: object) -> bytes:
    """The index with other fields, and a CRC that fits them."""
    record = bytearray(encode_index(NAME, METADATA, PLAN))
    struct.pack_into(f"<{kind}", record, offset, *values)
    struct.pack_into("<I", record, len(record) - 12, zlib.crc32(record[:-12]))
    return bytes(record)


def test_an_index_says_what_was_put() -> None:
    record = encode_index(NAME, METADATA, PLAN)
    assert len(record) <= INDEX_BYTES
    with pytest.raises(SpreadChunkError) as caught:
        decode_record(NAME, record)
    assert (caught.value.plan, caught.value.metadata) == (PLAN, METADATA)
    assert spread_plan(record[:FIXED_HEADER_BYTES], NAME) == PLAN
    assert not caught.value.removable  # it is nobody's damage


@pytest.mark.parametrize("nbytes", [8 * MIB, 8 * MIB + 1, 33 * MIB - 7, 100 * MIB])
@pytest.mark.parametrize("servers", [2, 3, 7, 100, 256])
def test_pieces_join_up_and_none_is_empty(nbytes: int, servers: int) -> None:
    plan = SpreadPlan.new(nbytes, servers)
    assert 2 <= plan.pieces <= servers
    at = 0
    for index in range(plan.pieces):
        start, end = plan.bounds(index)
        assert start == at < end
        at = end
    assert at == nbytes


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (changed(50, "H", 0), "header"),
        (changed(50, "H", 1), "header"),
        (changed(50, "H", 257), "header"),
        (changed(8, "Q", 5), "length"),
        (changed(5, "B", 1), "version"),
        (changed(16, "16s", bytes(16)), "key"),
        (encode_index(NAME, METADATA, PLAN) + b"x", "length"),
        (encode_index(NAME, METADATA, PLAN)[:-1], "length"),
        (encode_index(NAME, ChunkMetadata.of((4097,), "uint8"), SpreadPlan(4097, 3, bytes(16))), "header"),
        (b"KVCF\x03" + bytes(100), "header"),
    ],
)
def test_an_index_that_does_not_verify_names_no_pieces(record: bytes, reason: str) -> None:
    with pytest.raises(FrameError) as caught:
        decode_record(NAME, record)
    assert caught.value.reason == reason


@pytest.mark.parametrize("start", [b"", b"KVCF", bytes(FIXED_HEADER_BYTES), changed(50, "H", 1)[:FIXED_HEADER_BYTES]])
def test_another_record_is_taken_for_no_index(start: bytes) -> None:
    assert spread_plan(start, NAME) is None
    assert spread_plan(changed(16, "16s", bytes(16))[:FIXED_HEADER_BYTES], NAME) is None


def test_a_piece_has_a_name_of_its_own_put_and_place() -> None:
    other = replace(PLAN, put=bytes(16))
    names = [*piece_names(NAME, PLAN), *piece_names(NAME, other)]
    assert len({*names, NAME}) == 7
    assert {chunk_of_piece(name) for name in names} == {NAME}
    assert [key_of_name("tenant:", name) for name in names] == [None] * 6
    assert all(name.partition("}")[0] == NAME.partition("}")[0] for name in names)


def test_a_chunk_under_way_is_no_piece() -> None:
    assert chunk_of_piece(NAME) is None
    assert chunk_of_piece(staging_name(NAME)) is None
    assert chunk_of_piece(staging_name(piece_names(NAME, PLAN)[0])) is None
    assert chunk_of_piece("k") is None
