"""The two kinds of stream over a scripted wire: how a message may be cut, and how a connection may end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
import xxhash

from lmcache_connect.testing import ScriptedWire
from lmcache_connect.transport import LoopStream, Stream, StreamClosedError, ThreadStream
from lmcache_connect.transport.transfer import SENT_PIECE_BYTES

pytestmark = [pytest.mark.asyncio, pytest.mark.in_turn]

Over = Callable[[ScriptedWire], Stream]

BLOCKED = BlockingIOError()


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


def everywhere(message: bytes) -> list[tuple[bytes | OSError, ...]]:
    """The message cut in two at each place, with a wait in between."""
    return [(message[:at], BLOCKED, message[at:]) for at in range(1, len(message))]


@pytest.mark.parametrize("pieces", everywhere(b"first\r\n\r\nx\r\n"))
async def test_lines_are_read_wherever_they_are_cut(over: Over, pieces: tuple[bytes | OSError, ...]) -> None:
    wire = ScriptedWire(*pieces)
    stream = over(wire)
    assert [await stream.read_until_crlf() for _ in range(3)] == [b"first", b"", b"x"]
    assert wire.is_done
    assert stream.buffered == 0


async def test_a_line_without_an_end_closes_the_stream(over: Over) -> None:
    stream = over(ScriptedWire(b"x" * 300))
    with pytest.raises(StreamClosedError, match="the script sent a line of more than 100 bytes"):
        await stream.read_until_crlf(limit=100)
    assert not stream.is_open


async def test_a_payload_goes_into_its_buffer_and_what_follows_stays(over: Over) -> None:
    payload = bytes(range(256)) * 3000
    wire = ScriptedWire(b"$\r\n" + payload[:1000], BLOCKED, payload[1000:] + b"+OK\r\nmore")
    stream = over(wire)
    assert await stream.read_until_crlf() == b"$"
    dest = bytearray(len(payload))
    hasher = xxhash.xxh3_64()
    await stream.receive_into(memoryview(dest), hasher)
    assert dest == payload
    assert hasher.digest() == xxhash.xxh3_64(payload).digest()
    assert await stream.read_until_crlf() == b"+OK"
    assert bytes(await stream.peek(4)) == b"more"
    assert wire.bytes_received == len(payload) + len(b"$\r\n+OK\r\nmore")


async def test_what_is_peeked_stays_until_it_is_taken(over: Over) -> None:
    stream = over(ScriptedWire(b"ab", BLOCKED, b"cdef"))
    assert bytes(await stream.peek(4)) == b"abcd"
    assert bytes(await stream.peek_available(1)) == b"abcdef" == bytes(stream.buffered_view())
    stream.take(3)
    await stream.discard(2)
    assert await stream.read_some(10) == b"f"


async def test_reading_some_bytes_tells_the_end_by_nothing(over: Over) -> None:
    stream = over(ScriptedWire(b"abc", b""))
    assert await stream.read_some(2) == b"ab"
    assert await stream.read_some(2) == b"c"
    assert await stream.read_some(2) == b""


async def test_a_peer_that_closes_in_the_middle_of_a_value_closes_the_stream(over: Over) -> None:
    stream = over(ScriptedWire(b"half", b""))
    dest = bytearray(8)
    with pytest.raises(StreamClosedError, match="the script closed the connection") as caught:
        await stream.receive_into(memoryview(dest))
    assert not stream.is_open
    del caught
    dest.extend(b"!")  # a view that somebody still held would make this a BufferError
    with pytest.raises(StreamClosedError, match="the connection to the script is closed"):
        await stream.send(b"x")


async def test_a_reset_comes_with_the_last_words_of_the_peer(over: Over) -> None:
    wire = ScriptedWire(b"-ERR max ", b"clients\r\n", sends=[3, ConnectionResetError("reset")])
    stream = over(wire)
    await stream.peek(5)
    with pytest.raises(StreamClosedError, match="the script: reset") as caught:
        await stream.send(b"PING\r\n")
    assert caught.value.last_words == b"-ERR max clients\r\n"
    assert wire.sent == b"PIN"
    assert not stream.is_open


@pytest.mark.parametrize("size", [0, 10, SENT_PIECE_BYTES, 2 * SENT_PIECE_BYTES + 5])
async def test_head_payload_and_tail_are_sent_in_order_however_little_a_call_takes(over: Over, size: int) -> None:
    payload = (bytes(range(251)) * (size // 251 + 1))[:size]
    hasher = xxhash.xxh3_64()
    wire = ScriptedWire(sends=[1, BLOCKED, 3, 100_000, BLOCKED])
    await over(wire).send_framed(b"head", [memoryview(payload)], hasher, hasher.digest)
    assert wire.sent == b"head" + payload + xxhash.xxh3_64(payload).digest()
    assert wire.bytes_sent == len(wire.sent)


async def test_protocol_bytes_may_fill_the_scratch_many_times(over: Over) -> None:
    lines = [b"%d" % index * 50 for index in range(5000)]
    stream = over(ScriptedWire(b"".join(line + b"\r\n" for line in lines)))
    assert [await stream.read_until_crlf() for _ in lines] == lines


async def test_a_transfer_that_waits_fails_when_the_stream_is_closed() -> None:
    stream = ScriptedWire(*[BLOCKED] * 1000).loop_stream()
    dest = bytearray(8)
    receiving = asyncio.ensure_future(stream.receive_into(memoryview(dest)))
    await asyncio.sleep(0)
    stream.close()
    with pytest.raises(StreamClosedError, match="the connection to the script is closed"):
        await receiving
    del receiving
    dest.extend(b"!")


async def test_a_cancelled_transfer_closes_the_stream() -> None:
    stream = ScriptedWire(*[BLOCKED] * 1000).loop_stream()
    receiving = asyncio.ensure_future(stream.read_until_crlf())
    await asyncio.sleep(0)
    receiving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receiving
    assert not stream.is_open


async def test_a_coroutine_of_a_thread_stream_never_suspends() -> None:
    stream = ScriptedWire(b"hel", BLOCKED, b"lo\r\n").thread_stream()
    with pytest.raises(StopIteration) as returned:
        stream.read_until_crlf().send(None)
    assert returned.value.value == b"hello"


# -------------------------------------------------------------------------------------------- who may use the wire


async def test_a_loop_stream_is_refused_while_a_thread_has_the_wire() -> None:
    stream = ScriptedWire(b"x\r\n").loop_stream()
    thread_stream = stream.take_over()
    with pytest.raises(RuntimeError, match="a thread has taken over the script; use the connection's `stream`"):
        await stream.read_until_crlf()
    thread_stream.hand_back()


async def test_a_thread_stream_that_was_handed_back_is_dead() -> None:
    stream = ScriptedWire(b"x\r\n").loop_stream()
    thread_stream = stream.take_over()
    thread_stream.hand_back()
    assert not thread_stream.is_open
    with pytest.raises(StreamClosedError):
        await thread_stream.read_until_crlf()
    with pytest.raises(StreamClosedError):
        await thread_stream.receive_into(memoryview(bytearray(1)))
    thread_stream.close()
    assert stream.is_open
    assert await stream.read_until_crlf() == b"x"
    stream.close()


@pytest.mark.parametrize("closed_by", ["loop stream", "thread stream"])
async def test_a_wire_that_is_closed_in_the_meantime_is_closed_when_it_is_handed_back(closed_by: str) -> None:
    stream: LoopStream = ScriptedWire(b"x\r\n").loop_stream()
    thread_stream = stream.take_over()
    (stream if closed_by == "loop stream" else thread_stream).close()
    with pytest.raises(StreamClosedError, match="is closed"):
        await thread_stream.peek(1)
    thread_stream.hand_back()
    assert not stream.is_open
    with pytest.raises(StreamClosedError, match="is closed"):
        await stream.read_until_crlf()
