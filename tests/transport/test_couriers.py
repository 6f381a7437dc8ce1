"""Threads that move a stream's bytes: what they return, what stops them, and what they let go of."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import anyio
import pytest
import pytest_asyncio
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcache_connect.transport import Couriers, Stream, StreamClosedError, ThreadStream
from lmcache_connect.transport.loop_stream import LoopStream
from lmcache_connect.transport.wire import Wire

from .tls_pair import Peer, tls_pair

pytestmark = pytest.mark.asyncio


@dataclass
class Connection:
    stream: Stream

    @property
    def is_reusable(self) -> bool:
        return self.stream.is_open

    def close(self) -> None:
        self.stream.close()


@pytest.fixture
def couriers() -> Iterator[Couriers]:
    made = Couriers()
    yield made
    made.close()


@pytest_asyncio.fixture(params=["plain", "tls"])
async def ends(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Connection, socket.socket | Peer]]:
    if request.param == "tls":
        async with tls_pair() as (wire, peer):
            connection = Connection(LoopStream(wire, asyncio.get_running_loop()))
            yield connection, peer
            connection.close()
        return
    here, there = socket.socketpair()
    here.setblocking(False)
    stream = LoopStream(Wire(here, "the peer"), asyncio.get_running_loop())
    yield Connection(stream), there
    stream.close()
    there.close()


async def receive(connection: Connection, dest: bytearray) -> int:
    with memoryview(dest) as view:
        await connection.stream.receive_into(view)
    return threading.get_ident()


async def read_line(connection: Connection) -> bytes:
    return await connection.stream.read_until_crlf()


async def test_a_job_runs_in_another_thread_and_its_result_comes_back(
    couriers: Couriers, ends: tuple[Connection, socket.socket | Peer]
) -> None:
    connection, peer = ends
    dest = bytearray(5)
    peer.sendall(b"hello")
    assert await couriers.run(connection, receive(connection, dest)) != threading.get_ident()
    assert dest == b"hello"
    assert connection.stream.is_open


async def test_the_event_loop_turns_while_a_thread_waits_for_its_peer(
    couriers: Couriers, ends: tuple[Connection, socket.socket | Peer]
) -> None:
    connection, peer = ends
    dest = bytearray(5)
    running = asyncio.ensure_future(couriers.run(connection, receive(connection, dest)))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not running.done()
    peer.sendall(b"hello")
    await running
    assert dest == b"hello"


async def test_a_thread_is_used_again_and_ends_when_closed(
    couriers: Couriers, ends: tuple[Connection, socket.socket | Peer]
) -> None:
    connection, peer = ends
    threads = set()
    for _ in range(3):
        peer.sendall(b"hello")
        threads.add(await couriers.run(connection, receive(connection, bytearray(5))))
    assert len(threads) == couriers.threads == 1
    alive = [thread for thread in threading.enumerate() if thread.ident in threads]
    couriers.close()
    for thread in alive:
        await asyncio.to_thread(thread.join, 5)
        assert not thread.is_alive()
    assert couriers.threads == 0


async def test_what_a_job_raises_is_raised_without_the_frames_that_hold_buffers(
    couriers: Couriers, ends: tuple[Connection, socket.socket | Peer]
) -> None:
    connection, peer = ends
    dest = bytearray(5)
    peer.sendall(b"he")
    peer.close()
    with pytest.raises(StreamClosedError, match="closed the connection in the middle") as caught:
        await couriers.run(connection, receive(connection, dest))
    dest.extend(b"!")  # a view that somebody still held would make this a BufferError
    assert caught.value.__traceback__ is not None
    assert not connection.stream.is_open


@pytest.mark.parametrize("way", ["native", "anyio"])
async def test_a_cancelled_caller_goes_on_when_the_thread_has_let_go_of_the_buffer(
    couriers: Couriers, ends: tuple[Connection, socket.socket | Peer], way: str
) -> None:
    connection, peer = ends
    dest = bytearray(1 << 20)
    peer.sendall(b"half")
    if way == "native":
        running = asyncio.ensure_future(couriers.run(connection, receive(connection, dest)))
        await asyncio.sleep(0.01)
        running.cancel()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    else:
        with anyio.move_on_after(0.01) as scope:
            await couriers.run(connection, receive(connection, dest))
        assert scope.cancelled_caught
    dest.extend(b"!")  # nobody holds a view
    assert not connection.stream.is_open
    assert couriers.threads == 1  # and the thread is ready for the next


async def test_a_stream_that_is_closed_meanwhile_ends_the_job(
    couriers: Couriers, ends: tuple[Connection, socket.socket | Peer]
) -> None:
    connection, _ = ends
    running = asyncio.ensure_future(couriers.run(connection, receive(connection, bytearray(5))))
    await asyncio.sleep(0)
    connection.stream.close()
    with pytest.raises(StreamClosedError):
        await running
    assert not connection.stream.is_open


async def test_a_connection_has_a_thread_stream_while_a_job_runs_and_its_loop_stream_afterwards(
    couriers: Couriers, ends: tuple[Connection, socket.socket | Peer]
) -> None:
    connection, _ = ends
    loop_stream = connection.stream

    async def job(fails: bool) -> Stream:
        if fails:
            raise ValueError("no")
        return connection.stream

    thread_stream = await couriers.run(connection, job(False))
    assert isinstance(thread_stream, ThreadStream)
    assert not thread_stream.is_open
    assert connection.stream is loop_stream
    assert loop_stream.is_open
    with pytest.raises(ValueError, match="no"):
        await couriers.run(connection, job(True))
    assert connection.stream is loop_stream
    assert not loop_stream.is_open  # nothing tells where a job that failed has left the stream


async def test_two_threads_cannot_take_over_one_connection(
    couriers: Couriers, ends: tuple[Connection, socket.socket | Peer]
) -> None:
    connection, peer = ends
    dest = bytearray(5)
    running = asyncio.ensure_future(couriers.run(connection, receive(connection, dest)))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="a thread may have taken it over already"):
        await couriers.run(connection, receive(connection, bytearray(5)))
    peer.sendall(b"hello")
    await running
    assert dest == b"hello"
    assert couriers.threads == 1


async def test_a_job_that_waits_for_something_else_is_refused(
    couriers: Couriers, ends: tuple[Connection, socket.socket | Peer]
) -> None:
    connection, _ = ends

    async def sleep() -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="waited for something that is not its stream"):
        await couriers.run(connection, sleep())


async def test_a_thread_cannot_take_over_a_closed_stream(
    couriers: Couriers, ends: tuple[Connection, socket.socket | Peer]
) -> None:
    connection, _ = ends
    connection.stream.close()
    with pytest.raises(StreamClosedError, match="is closed"):
        await couriers.run(connection, receive(connection, bytearray(5)))


async def test_threads_of_couriers_that_were_forgotten_end(ends: tuple[Connection, socket.socket | Peer]) -> None:
    connection, peer = ends
    couriers = Couriers()
    peer.sendall(b"hello")
    ident = await couriers.run(connection, receive(connection, bytearray(5)))
    (thread,) = (thread for thread in threading.enumerate() if thread.ident == ident)
    gone = weakref.ref(couriers)
    del couriers
    gc.collect()
    assert gone() is None
    await asyncio.to_thread(thread.join, 5)
    assert not thread.is_alive()


async def test_a_stream_that_comes_back_is_used_on_the_loop_as_before(
    couriers: Couriers, ends: tuple[Connection, socket.socket | Peer]
) -> None:
    connection, peer = ends
    peer.sendall(b"hello\r\nagain")
    assert await couriers.run(connection, read_line(connection)) == b"hello"
    dest = bytearray(5)
    await receive(connection, dest)
    assert dest == b"again"
    await connection.stream.send(b"thanks")
    assert await asyncio.to_thread(lambda: peer.recv(6)) == b"thanks"


@given(
    sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=6),
    cuts=st.lists(st.integers(1, 4000), max_size=20),
)
@settings(max_examples=60, deadline=None)
async def test_values_arrive_whole_however_the_network_cuts_them(sizes: list[int], cuts: list[int]) -> None:
    here, there = socket.socketpair()
    here.setblocking(False)
    wire = Wire(here, "the peer")
    connection = Connection(LoopStream(wire, asyncio.get_running_loop()))
    couriers = Couriers()
    values = [bytes((index + offset) % 251 for offset in range(size)) for index, size in enumerate(sizes)]
    sent = b"".join(b"$%d\r\n%b\r\n" % (len(value), value) for value in values)

    async def take() -> list[bytes]:
        taken = []
        stream = connection.stream
        assert isinstance(stream, ThreadStream)
        for _ in values:
            dest = bytearray(int((await stream.read_until_crlf())[1:]))
            hasher = xxhash.xxh3_64()
            with memoryview(dest) as view:
                await stream.receive_into(view, hasher)
            assert hasher.digest() == xxhash.xxh3_64(dest).digest()
            assert bytes(await stream.peek(2)) == b"\r\n"
            stream.take(2)
            taken.append(bytes(dest))
        return taken

    async def send() -> None:
        start = 0
        for cut in [*cuts, len(sent)]:
            there.sendall(sent[start : start + cut])
            start += cut
            await asyncio.sleep(0)

    try:
        running = asyncio.ensure_future(couriers.run(connection, take()))
        await send()
        assert await running == values
        assert connection.stream.buffered == 0
        assert wire.bytes_received == len(sent)
    finally:
        couriers.close()
        connection.stream.close()
        there.close()


async def test_a_caller_whose_coroutine_is_closed_goes_on_when_the_thread_has_let_go(
    couriers: Couriers, ends: tuple[Connection, socket.socket | Peer]
) -> None:
    connection, peer = ends
    dest = bytearray(5)
    peer.sendall(b"hel")
    call = couriers.run(connection, receive(connection, dest))
    call.send(None)
    call.close()
    dest.append(0)  # raises where anything still has a view of it
    assert not connection.stream.is_open
