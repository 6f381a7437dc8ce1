"""A payload that its owner wants back is copied, and the message goes on from the copy."""

from __future__ import annotations

import asyncio
import socket

import pytest
import xxhash

from lmcache_connect.transport.loop_stream import LoopStream
from lmcache_connect.transport.wire import Wire

pytestmark = pytest.mark.asyncio

SIZE = 8 << 20


class Owner:
    """Has a payload, and wants it back when it says so."""

    def __init__(self) -> None:
        self.wants = False
        self.times = 0

    def wants_it_back(self) -> bool:
        return self.wants

    def has_it_back(self) -> None:
        self.times += 1


@pytest.mark.parametrize("buffers", [1, 3, 3000])
@pytest.mark.parametrize("received_before", [0, 1, 300_000, 700_000])
async def test_what_is_left_of_a_payload_goes_out_unchanged_and_with_the_right_hash(
    received_before: int, buffers: int
) -> None:
    here, there = socket.socketpair()
    here.setblocking(False)
    there.setblocking(False)
    loop = asyncio.get_running_loop()
    stream = LoopStream(Wire(here, "peer"), loop)
    payload = bytearray(bytes(range(256)) * (SIZE // 256))
    expected = b"head" + bytes(payload)
    owner = stream.payload_owner = Owner()
    hasher = xxhash.xxh3_64()
    step = -(-SIZE // buffers)
    views = [memoryview(payload)[start : start + step] for start in range(0, SIZE, step)]
    sending = asyncio.ensure_future(stream.send_framed(b"head", views, hasher, lambda: hasher.digest()))
    await asyncio.sleep(0)
    received = b""
    while len(received) < received_before:
        received += await loop.sock_recv(there, 65536)
    owner.wants = True
    assert stream.recall()
    assert owner.times == 1
    payload[:] = bytes(SIZE)  # the owner uses its memory for something else
    while len(received) < len(expected) + 8:
        received += await loop.sock_recv(there, 1 << 20)
    await sending
    assert received[: len(expected)] == expected
    assert received[len(expected) :] == xxhash.xxh3_64(expected[4:]).digest()
    assert owner.times == 1
    stream.close()
    there.close()
