"""A get that failed keeps no block of the arena, also while its error and the frames of its calls are kept."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from lmcache_connect import LocalCPUBackend
from lmcache_connect.record import StripePlan, decode_header, encode_header, encode_record, encode_remote_metadata
from lmcache_connect.streaming.room import PlaceInLine, RoomLine
from lmcache_connect.testing import ScriptedWire
from lmcache_connect.transport import StreamClosedError
from lmcache_connect_redis.layouts.framed.record_reader import RecordReader, StripedChunk
from lmcache_connect_redis.layouts.two_key.records import TwoKeyRecords
from lmcache_connect_redis.options import RedisOptions
from lmcache_connect_redis.protocol.connection import Connection

pytestmark = [pytest.mark.asyncio, pytest.mark.in_turn]

CHUNK = 300_000


@pytest.fixture
def backend() -> Iterator[LocalCPUBackend]:
    with LocalCPUBackend(8 << 20) as made:
        gc.disable()  # what is freed by the garbage collector alone, is freed too late
        try:
            yield made
        finally:
            gc.enable()


@pytest.fixture(params=["thread", "loop"])
def io(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def cut_short(reply: bytes, io: str) -> Connection:
    wire = ScriptedWire(reply[:70_000], b"")
    return Connection(wire.thread_stream() if io == "thread" else wire.loop_stream(), "store")


async def test_a_whole_chunk_that_is_cut_short_leaves_the_arena_empty(backend: LocalCPUBackend, io: str) -> None:
    obj = backend.allocate((CHUNK,), "uint8")
    assert obj is not None
    with obj:
        record = encode_record("k", obj)
    room = PlaceInLine(RoomLine(backend, 1)).new_room()
    connection = cut_short(b"$%d\r\n%b\r\n" % (len(record), record), io)
    with pytest.raises(StreamClosedError) as kept:
        await RecordReader(RedisOptions()).receive(connection, "k", room, 0, 1)
    room.release()
    assert kept.tb is not None
    assert backend.statistics().reserved == 0


@pytest.mark.parametrize("index", [0, 1])
async def test_a_piece_that_is_cut_short_leaves_the_arena_empty(backend: LocalCPUBackend, io: str, index: int) -> None:
    obj = backend.allocate((CHUNK,), "uint8")
    assert obj is not None
    plan = StripePlan(CHUNK, CHUNK // 2, 7)
    header = encode_header("k", obj.metadata, plan=plan, index=index)
    record = header + bytes(CHUNK // 2 + 8)
    connection = cut_short(b"$%d\r\n%b\r\n" % (len(record), record), io)
    decoded = decode_header(header, "k", len(record))
    chunk = StripedChunk("k", plan, decoded, header, obj)
    reader = RecordReader(RedisOptions())
    with pytest.raises(StreamClosedError) as kept:
        if index:
            await reader.receive_piece(connection, chunk, index)
        else:
            await connection.stream.peek(8)
            connection.stream.take(len(b"$%d\r\n" % len(record)) + decoded.length)
            await reader.receive_first_piece(connection, chunk)
    obj.ref_count_down()
    assert kept.tb is not None
    assert backend.statistics().reserved == 0


async def test_a_chunk_of_lmcaches_layout_that_is_cut_short_leaves_the_arena_empty(
    backend: LocalCPUBackend, io: str
) -> None:
    obj = backend.allocate((CHUNK,), "uint8")
    assert obj is not None
    with obj:
        metadata = encode_remote_metadata(obj.metadata)
    reply = b"*2\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(metadata), metadata, CHUNK, bytes(CHUNK))
    room = PlaceInLine(RoomLine(backend, 1)).new_room()
    with pytest.raises(StreamClosedError) as kept:
        await TwoKeyRecords("store", RedisOptions()).receive(cut_short(reply, io), room, 0, 1)
    room.release()
    assert kept.tb is not None
    assert backend.statistics().reserved == 0
