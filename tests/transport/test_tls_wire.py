"""A connection that speaks TLS, on the event loop and in a thread: where records are cut, and who has the memory."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
import xxhash

from lmcache_connect.transport import Couriers, LoopStream, Stream, StreamClosedError, StreamStalledError
from lmcache_connect.transport.tls_wire import TLSWire

from .tls_pair import Peer, tls_pair

pytestmark = pytest.mark.asyncio

T = TypeVar("T")

LIMIT = 0.8
"""Seconds without a byte after which the wires of these tests are dead."""

KINDS = pytest.mark.parametrize("kind", ["loop", "thread"])


@dataclass
class Ends:
    """A connection over TLS, and its peer."""

    stream: Stream
    wire: TLSWire
    peer: Peer
    couriers: Couriers

    @property
    def is_reusable(self) -> bool:
        return self.stream.is_open

    def close(self) -> None:
        self.stream.close()

    async def run(self, kind: str, job: Coroutine[Any, Any, T]) -> T:
        """Runs protocol code, which uses `stream`, on the loop or in a thread."""
        return await (job if kind == "loop" else self.couriers.run(self, job))


@asynccontextmanager
async def ends() -> AsyncIterator[Ends]:
    async with tls_pair(LIMIT) as (wire, peer):
        made = Ends(LoopStream(wire, asyncio.get_running_loop()), wire, peer, Couriers())
        try:
            yield made
        finally:
            made.close()
            made.couriers.close()


def payload(nbytes: int) -> bytes:
    return random.Random(nbytes).randbytes(nbytes)


@KINDS
@pytest.mark.parametrize("pieces_of", [1, 7, 5000])
async def test_values_arrive_whole_however_their_records_are_cut(kind: str, pieces_of: int) -> None:
    values = [payload(size) for size in (0, 1, 900, 40_000)]
    if pieces_of > 1000:
        values += [payload(16_384), payload(700_001)]

    async with ends() as made:

        async def take() -> list[bytes]:
            taken = []
            for _ in values:
                dest = bytearray(int(await made.stream.read_until_crlf()))
                hasher = xxhash.xxh3_64()
                await made.stream.receive_into(memoryview(dest), hasher)
                assert hasher.digest() == xxhash.xxh3_64(dest).digest()
                assert await made.stream.read_until_crlf() == b""
                taken.append(bytes(dest))
            return taken

        said = b"".join(made.peer.encrypted(b"%d\r\n%b\r\n" % (len(value), value)) for value in values)
        found, _ = await asyncio.gather(made.run(kind, take()), made.peer.send(said, pieces_of))
        assert found == values
        assert made.stream.buffered == 0
        assert made.wire.is_quiet()


@KINDS
@pytest.mark.parametrize("buffers", [1, 3, 2000])
@pytest.mark.parametrize("size", [0, 10, 16_000, 16_384, 3_000_000])
async def test_what_is_sent_arrives_in_order_though_the_peer_takes_little_at_a_time(
    kind: str, buffers: int, size: int
) -> None:
    value = payload(size)
    step = max(1, -(-size // buffers))
    views = [memoryview(value)[start : start + step] for start in range(0, size, step)]
    hasher = xxhash.xxh3_64()
    async with ends() as made:

        async def send() -> None:
            await made.stream.send_framed(b"head", views, hasher, hasher.digest)

        _, received = await asyncio.gather(made.run(kind, send()), made.peer.read(4 + size + 8))
        assert received == b"head" + value + xxhash.xxh3_64(value).digest()


async def test_a_connection_goes_from_the_loop_to_a_thread_and_back_amid_one_record() -> None:
    async with ends() as made:
        said = made.peer.encrypted(b"one\r\ntwo\r\n" + b"3" * 100_000 + b"four\r\n")
        saying = asyncio.ensure_future(made.peer.send(said))

        async def line() -> bytes:
            return await made.stream.read_until_crlf()

        async def value() -> bytes:
            dest = bytearray(100_000)
            await made.stream.receive_into(memoryview(dest))
            return bytes(dest)

        assert await made.run("loop", line()) == b"one"
        assert await made.run("thread", line()) == b"two"
        assert await made.run("loop", value()) == b"3" * 100_000
        assert await made.run("thread", line()) == b"four"
        await saying
        assert made.wire.is_quiet()


@KINDS
async def test_a_payload_that_is_wanted_back_is_read_no_more_and_goes_out_unchanged(kind: str) -> None:
    value = bytearray(payload(6 << 20))
    expected = b"head" + bytes(value)

    class Owner:
        wants = has = False

        def wants_it_back(self) -> bool:
            return self.wants

        def has_it_back(self) -> None:
            self.has = True
            value[:] = bytes(len(value))  # the owner uses its memory for something else

    owner = Owner()
    hasher = xxhash.xxh3_64()
    async with ends() as made:

        async def send() -> None:
            made.stream.payload_owner = owner
            await made.stream.send_framed(b"head", [memoryview(value)], hasher, hasher.digest)

        sending = asyncio.ensure_future(made.run(kind, send()))
        received = await made.peer.read(700_000)
        assert not sending.done()
        owner.wants = True
        made.stream.recall()
        received += await made.peer.read(len(expected) + 8 - len(received))
        await sending
        assert owner.has
        assert received == expected + xxhash.xxh3_64(expected[4:]).digest()


@KINDS
async def test_a_silent_peer_is_found_out_and_one_that_says_a_byte_of_a_record_at_a_time_is_not(kind: str) -> None:
    async with ends() as made:

        async def line() -> bytes:
            return await made.stream.read_until_crlf()

        said = made.peer.encrypted(b"slow\r\n")
        began = time.monotonic()

        async def say() -> None:
            for at in range(len(said)):
                await made.peer.send(said[at : at + 1])
                await asyncio.sleep(1.5 * LIMIT / len(said))

        found, _ = await asyncio.gather(made.run(kind, line()), say())
        assert found == b"slow"
        assert time.monotonic() - began > LIMIT
        await made.peer.send(made.peer.encrypted(b"never whole\r\n")[:-1])
        with pytest.raises(StreamStalledError, match=r"moved no byte for 0\.8 s"):
            await made.run(kind, line())


@KINDS
async def test_nothing_holds_the_memory_of_a_value_whose_connection_ended_amid_it(kind: str) -> None:
    async with ends() as made:
        dest = bytearray(100_000)

        async def value() -> None:
            with memoryview(dest) as view:
                await made.stream.receive_into(view)

        await made.peer.send(made.peer.encrypted(bytes(70_000))[:-1])
        made.peer.close()
        with pytest.raises(StreamClosedError, match="the peer closed the connection") as caught:
            await made.run(kind, value())
        dest.append(0)  # raises where anything still has a view of it
        assert caught.value.last_words == b""


@KINDS
async def test_a_record_that_was_changed_on_its_way_ends_the_connection(kind: str) -> None:
    async with ends() as made:

        async def line() -> bytes:
            return await made.stream.read_until_crlf()

        record = bytearray(made.peer.encrypted(b"line\r\n"))
        record[-1] ^= 1
        await made.peer.send(bytes(record))
        with pytest.raises(StreamClosedError, match="the TLS connection to the peer failed"):
            await made.run(kind, line())
        assert not made.stream.is_open


@KINDS
async def test_the_last_words_before_a_goodbye_are_kept_and_the_connection_is_used_no_more(kind: str) -> None:
    async with ends() as made:

        async def line() -> bytes:
            return await made.stream.read_until_crlf()

        await made.peer.send(made.peer.encrypted(b"-ERR no") + made.peer.goodbye())
        with pytest.raises(StreamClosedError, match="the peer closed the connection") as caught:
            await made.run(kind, line())
        assert caught.value.last_words == b"-ERR no"
    async with ends() as made:
        assert made.wire.is_quiet()
        await made.peer.send(made.peer.goodbye())
        assert not made.wire.is_quiet()
    async with ends() as made:
        made.peer.sendall(b"unasked")
        assert not made.wire.is_quiet()
