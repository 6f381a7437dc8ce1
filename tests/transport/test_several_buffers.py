"""A payload that lies in several buffers: each byte goes where it belongs, however the message is cut."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from itertools import pairwise

import pytest
import pytest_asyncio
import xxhash

from lmcache_connect.testing import ScriptedWire
from lmcache_connect.transport import Stream, StreamClosedError, ThreadStream
from lmcache_connect.transport.row import MAX_BUFFERS, Row
from lmcache_connect.transport.transfer import COPIED_BYTES, SENT_PIECE_BYTES

pytestmark = [pytest.mark.asyncio, pytest.mark.in_turn]

Over = Callable[[ScriptedWire], Stream]

SIZES = [1, 1000, COPIED_BYTES, COPIED_BYTES + 1, 300_000, 2 * SENT_PIECE_BYTES + 5]


@pytest_asyncio.fixture(params=["loop", "thread"])
async def over(request: pytest.FixtureRequest) -> AsyncIterator[Over]:
    """Makes a stream over a wire, on the event loop or as a thread has it."""
    made: list[Stream] = []

    def make(wire: ScriptedWire) -> Stream:
        made.append(wire.loop_stream() if request.param == "loop" else wire.thread_stream())
        return made[-1]

    yield make
    for stream in made:
        stream.close()
        if isinstance(stream, ThreadStream):
            stream.hand_back()


def cut(data: memoryview, rng: random.Random, count: int) -> list[memoryview]:
    """Cuts bytes into so many buffers at random places. Some have no bytes."""
    places = [0, *sorted(rng.choices(range(len(data) + 1), k=count - 1)), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


@pytest.mark.parametrize("buffers", [2, 9, 2000])
@pytest.mark.parametrize("size", SIZES)
async def test_buffers_are_filled_in_order_wherever_the_message_is_cut(over: Over, size: int, buffers: int) -> None:
    rng = random.Random(size + buffers)
    payload = rng.randbytes(size)
    script: list[bytes | OSError] = []
    for piece in cut(memoryview(b"$\r\n" + payload + b"+OK\r\nmore"), rng, 12):
        script += [bytes(piece), BlockingIOError()] if piece else []
    stream = over(ScriptedWire(*script))
    assert await stream.read_until_crlf() == b"$"
    memory = bytearray(size + 20)
    dests = cut(memoryview(memory)[10:-10], rng, buffers)
    hasher = xxhash.xxh3_64()
    await stream.receive_into_all(dests, hasher)
    assert memory == bytes(10) + payload + bytes(10)
    assert hasher.digest() == xxhash.xxh3_64(payload).digest()
    assert await stream.read_until_crlf() == b"+OK"
    assert bytes(await stream.peek(4)) == b"more"


async def test_a_chunk_may_lie_in_regions_of_one_byte(over: Over) -> None:
    payload = random.Random(1).randbytes(100_000)
    memory = memoryview(bytearray(len(payload)))
    regions = [memory[at : at + 1] for at in range(len(payload))]
    await over(ScriptedWire(payload)).receive_into_all(regions)
    assert memory == payload
    wire = ScriptedWire()
    await over(wire).send_framed(b"head", regions, None, lambda: b"tail")
    assert wire.sent == b"head" + payload + b"tail"


@pytest.mark.parametrize("buffers", [2, 9, 2000])
@pytest.mark.parametrize("size", SIZES)
async def test_buffers_are_sent_in_order_however_little_a_call_takes(over: Over, size: int, buffers: int) -> None:
    rng = random.Random(size - buffers)
    payload = rng.randbytes(size)
    hasher = xxhash.xxh3_64()
    wire = ScriptedWire(sends=[1, BlockingIOError(), 3, 50_000, BlockingIOError(), 7])
    await over(wire).send_framed(b"head", cut(memoryview(payload), rng, buffers), hasher, hasher.digest)
    assert wire.sent == b"head" + payload + xxhash.xxh3_64(payload).digest()


@pytest.mark.parametrize("sends", [False, True])
async def test_a_connection_that_ends_amid_the_buffers_lets_go_of_all_of_them(over: Over, sends: bool) -> None:
    buffers = [bytearray(30_000) for _ in range(3)]
    with pytest.raises(StreamClosedError) as kept:
        if sends:
            stream = over(ScriptedWire(sends=[40_000, ConnectionResetError("reset")]))
            await stream.send_framed(b"", [memoryview(each) for each in buffers], None, bytes)
        else:
            await over(ScriptedWire(bytes(50_000), b"")).receive_into_all([memoryview(each) for each in buffers])
    for each in buffers:
        each.append(0)  # a view that somebody still held would make this a BufferError
    assert kept.tb is not None


async def test_a_receiving_call_that_is_cancelled_lets_go_of_all_buffers() -> None:
    buffers = [bytearray(30_000) for _ in range(3)]
    wire = ScriptedWire(bytes(50_000), *[BlockingIOError()] * 1000)
    stream = wire.loop_stream()
    receiving = asyncio.ensure_future(stream.receive_into_all([memoryview(each) for each in buffers]))
    while wire.bytes_received < 50_000:
        await asyncio.sleep(0)
    receiving.cancel()
    await asyncio.wait((receiving,))
    assert receiving.cancelled()
    assert not stream.is_open
    for each in buffers:
        each.append(0)


async def test_a_row_gives_a_bounded_number_of_pieces_of_which_the_first_is_not_empty() -> None:
    row = Row([memoryview(b"x")] * (MAX_BUFFERS + 1) + [memoryview(b""), memoryview(b"yz")])
    assert row.left == MAX_BUFFERS + 3
    assert len(row.peek(1 << 20)) == MAX_BUFFERS
    row.skip(MAX_BUFFERS)
    assert row.peek(1 << 20) == [b"x", b"", b"yz"]
    assert row.peek(2) == [b"x", b"", b"y"]
    row.skip(1)
    assert row.peek(2) == [b"yz"]
    row.skip(1)
    row.copy_rest()
    assert row.peek(9) == [b"z"]
    row.skip(1)
    assert (row.left, row.peek(9)) == (0, [])
