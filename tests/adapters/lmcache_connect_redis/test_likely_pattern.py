"""The pattern of likely records is shared by threads: another thread may replace it at any moment."""

from __future__ import annotations

from typing import Any, cast

import pytest

from lmcache_connect import LocalCPUBackend, MemoryObj
from lmcache_connect.metadata import ChunkMetadata
from lmcache_connect.record import decode_header, encode_record
from lmcache_connect.testing import ScriptedWire
from lmcache_connect_redis.layouts.framed.likely import LikelyRecords
from lmcache_connect_redis.protocol.connection import Connection

SHAPES = ((2048,), "float16"), ((16,), "uint8"), ((2, 2, 512, 2), "uint8")


def record_of(backend: LocalCPUBackend, key: str, shape: tuple[int, ...], dtype: str) -> bytes:
    obj = backend.allocate(shape, dtype)
    assert obj is not None
    with obj:
        obj.byte_array[:] = bytes(obj.get_size())
        return encode_record(key, obj)


class RacedRoom:
    """Another thread remembers a record of another kind while room is made."""

    def __init__(self, backend: LocalCPUBackend, likely: LikelyRecords, other: bytes) -> None:
        self._backend = backend
        self._likely = likely
        self._other = other

    def make_now(self, metadata: ChunkMetadata, expected: int, slot: int = 0) -> MemoryObj | None:
        remember(self._likely, "other", self._other)
        return self._backend.allocate_chunk(metadata)


def remember(likely: LikelyRecords, key: str, record: bytes) -> None:
    likely.remember(len(record), decode_header(record, key, len(record)), memoryview(record))


@pytest.mark.asyncio
@pytest.mark.parametrize("other", SHAPES[1:])
async def test_a_reply_is_taken_by_one_pattern_though_another_thread_replaces_it_meanwhile(
    local_cpu_backend: LocalCPUBackend, other: tuple[tuple[int, ...], str]
) -> None:
    likely = LikelyRecords()
    remember(likely, "before", record_of(local_cpu_backend, "before", *SHAPES[0]))
    record = record_of(local_cpu_backend, "k", *SHAPES[0])
    connection = Connection(ScriptedWire(b"$%d\r\n%b\r\n" % (len(record), record)).thread_stream(), "store")
    await connection.stream.peek(8)
    room = RacedRoom(local_cpu_backend, likely, record_of(local_cpu_backend, "other", *other))
    taken = likely.take_header(connection, "k", cast(Any, room), 0, 1)
    assert taken is not None
    header, obj = taken
    assert isinstance(obj, MemoryObj)
    with obj:
        assert header == decode_header(record, "k", len(record))
        assert obj.get_shapes() == [SHAPES[0][0]]
        rest = record[header.length :] + b"\r\n"
        assert bytes(await connection.stream.peek(len(rest))) == rest
