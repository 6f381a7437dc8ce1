"""Chunks in memory of the caller are received into it and sent from it, by the addresses that system calls get."""

from __future__ import annotations

import socket
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Final

import numpy
import pytest

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend
from lmcache_connect.testing import RcloneServer, ValkeyServer
from lmcache_connect.transport.row import MAX_BUFFERS
from lmcache_connect.transport.scratch import HEAD_BYTES

from .field import Field, evenly
from .stock import MIB

pytestmark = [pytest.mark.asyncio, pytest.mark.in_turn]

KEYS: Final = ["some", "many", "large"]
CHUNKS: Final = [evenly(100_000, 11), evenly(MIB, 128), [*evenly(6 * MIB, 7), 1]]
TOTAL: Final = sum(map(sum, CHUNKS))
RECORDS: Final = 10
"""At most: `large` is stored in up to eight pieces, which are records of their own."""

Where = tuple[int, int]
"""An address and a number of bytes."""


class Calls:
    """What system calls on sockets have moved, and from or to where."""

    def __init__(self) -> None:
        self.received: list[Where] = []
        self.sent: list[Where] = []
        self.most_buffers = 0

    def note(self, moved: list[Where], buffers: Sequence[Any], count: int) -> None:
        """Told that a call has moved `count` bytes, from or into the beginning of these buffers."""
        self.most_buffers = max(self.most_buffers, len(buffers))
        for buffer in buffers:
            size = min(len(buffer), count)
            if size:
                moved.append((numpy.frombuffer(buffer, numpy.uint8).ctypes.data, size))
            count -= size


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Notes the calls of all sockets of this process, which are made all the same."""
    noted = Calls()
    real: Any = socket.socket.__mro__[1]

    def recv_into(self: Any, dest: Any, nbytes: int = 0, flags: int = 0) -> int:
        count: int = real.recv_into(self, dest, nbytes, flags)
        noted.note(noted.received, [dest], count)
        return count

    def recvmsg_into(self: Any, buffers: Any, ancbufsize: int = 0, flags: int = 0) -> Any:
        result = real.recvmsg_into(self, buffers, ancbufsize, flags)
        noted.note(noted.received, buffers, result[0])
        return result

    def sendmsg(self: Any, buffers: Any) -> int:
        count: int = real.sendmsg(self, buffers)
        noted.note(noted.sent, buffers, count)
        return count

    for patched in (recv_into, recvmsg_into, sendmsg):
        monkeypatch.setattr(socket.socket, patched.__name__, patched, raising=False)
    return noted


def bytes_within(moved: Sequence[Where], memory: Field) -> int:
    """How many of the bytes that were moved lie in the regions."""
    regions = sorted(
        (numpy.frombuffer(region, numpy.uint8).ctypes.data, len(region)) for chunk in memory.buffers for region in chunk
    )
    starts = [start for start, _ in regions]
    found = 0
    for address, size in moved:
        start, length = regions[max(bisect_right(starts, address) - 1, 0)]
        if start <= address and address + size <= start + length:
            found += size
    return found


@pytest.mark.parametrize("kind", ["loop", "thread", "whole", "lmcache", "s3-loop", "s3-thread", "s3-ranges"])
async def test_payloads_go_straight_into_the_callers_regions_and_come_straight_from_them(
    request: pytest.FixtureRequest, calls: Calls, kind: str
) -> None:
    options: dict[str, Any]
    if kind.startswith("s3"):
        options = {"io": kind[3:]} if kind != "s3-ranges" else {"range_size": MIB, "multipart_threshold": 5 * MIB}
        store: RcloneServer = request.getfixturevalue("rclone_server")
        url = store.url("straight", **options)
    else:
        options = {"whole": {"stripe": "0"}, "lmcache": {"layout": "lmcache"}}.get(kind) or {"io": kind}
        server: ValkeyServer = request.getfixturevalue("valkey_server")
        url = server.url(options=options)
    memory = Field(CHUNKS)
    stored = memory.fill(1)
    with LocalCPUBackend(MIB) as backend:
        config = ConnectorConfig.load(operation_timeout=40)
        async with ConnectorManager(url, local_cpu_backend=backend, config=config) as manager:
            connector = manager.create_connector()
            assert await connector.batched_put_from(KEYS, memory.buffers) == [True] * len(KEYS)
            assert bytes_within(calls.sent, memory) == TOTAL
            memory.mark()
            calls.received.clear()
            assert await connector.batched_get_into(KEYS, memory.buffers) == [True] * len(KEYS)
            assert memory.contents() == stored
            memory.check_gaps()
            # What comes with a header has been read ahead with it.
            assert TOTAL - RECORDS * HEAD_BYTES <= bytes_within(calls.received, memory) <= TOTAL
            assert 32 <= calls.most_buffers <= MAX_BUFFERS + 2  # of 8 KiB, 32 are a piece that is received and hashed
