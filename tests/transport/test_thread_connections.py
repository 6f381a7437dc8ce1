"""Connections for threads: one thread at a time, no more than allowed, none that is dead, and none left open."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import pytest

from lmcache_connect.errors import StoreUnavailableError
from lmcache_connect.transport import (
    Connection,
    LoopStream,
    Stream,
    StreamClosedError,
    ThreadConnections,
    ThreadStream,
    Wire,
)
from lmcache_connect.transport import thread_connections as module

from .tls_pair import tls_pair

SIZE: Final = 2


class Plain:
    """A connection that speaks nothing, and the socket of its peer."""

    def __init__(self, peers: list[socket.socket]) -> None:
        ours, self.peer = socket.socketpair()
        ours.setblocking(False)
        peers.append(self.peer)
        self.stream: Stream = LoopStream(Wire(ours, "the peer"), asyncio.get_running_loop())
        self.is_ready = True

    @property
    def is_reusable(self) -> bool:
        return self.is_ready and self.stream.is_open

    def close(self) -> None:
        self.stream.close()


class Dialled:
    """The connections of a test, and what they were made by."""

    def __init__(self) -> None:
        self.peers: list[socket.socket] = []
        self.taken_ones: list[Plain] = []
        self.dials = 0
        self.failure: Exception | None = None
        self.connections = ThreadConnections[Plain](SIZE, self.dial, asyncio.get_running_loop())

    async def dial(self) -> Plain:
        self.dials += 1
        if self.failure is not None:
            raise self.failure
        return Plain(self.peers)

    async def taken(self) -> Plain:
        """A connection, as soon as one is free."""
        async with asyncio.timeout(5):
            while (taken := await asyncio.to_thread(self.connections.take)) is None:
                await asyncio.sleep(0)
        self.taken_ones.append(taken)
        return taken


@asynccontextmanager
async def dialled() -> AsyncIterator[Dialled]:
    made = Dialled()
    try:
        yield made
    finally:
        made.connections.close()
        for connection in made.taken_ones:
            made.connections.put_back(connection)
        for peer in made.peers:
            peer.close()


@pytest.mark.asyncio
async def test_a_thread_that_finds_none_has_one_opened_and_the_last_one_used_is_taken_first() -> None:
    async with dialled() as made:
        assert made.connections.take() is None
        first = await made.taken()
        second = await made.taken()
        assert first is not second
        assert isinstance(first.stream, ThreadStream)
        made.connections.put_back(second)
        made.connections.put_back(first)
        assert made.connections.take() is first
        made.connections.put_back(first)
        assert made.dials == 2


@pytest.mark.asyncio
async def test_there_are_no_more_than_allowed() -> None:
    async with dialled() as made:
        taken = [await made.taken() for _ in range(SIZE)]
        assert made.connections.take() is None
        for _ in range(5):
            await asyncio.sleep(0)
        assert made.connections.open_connections == made.dials == SIZE
        for each in taken:
            made.connections.put_back(each)


@pytest.mark.asyncio
@pytest.mark.parametrize("end", ["closed by the peer", "unasked bytes", "not reusable", "closed"])
async def test_one_that_cannot_be_used_is_closed_and_not_handed_out(end: str) -> None:
    async with dialled() as made:
        first = await made.taken()
        if end == "not reusable":
            first.is_ready = False
        elif end == "closed":
            first.close()
        made.connections.put_back(first)
        if end == "closed by the peer":
            first.peer.close()
        elif end == "unasked bytes":
            first.peer.send(b"?")
        assert await made.taken() is not first
        assert not first.stream.is_open
        assert made.connections.open_connections == 1


@pytest.mark.asyncio
async def test_closing_closes_also_those_that_threads_have() -> None:
    async with dialled() as made:
        free, used = await made.taken(), await made.taken()
        made.connections.put_back(free)
        made.connections.close()
        assert not free.stream.is_open
        assert not used.stream.is_open
        assert used.peer.recv(1) == b""
        made.connections.put_back(used)
        assert made.connections.open_connections == 0
        assert made.connections.take() is None
        await asyncio.sleep(0)
        assert made.dials == 2


@pytest.mark.asyncio
async def test_one_that_cannot_be_opened_is_not_tried_again_at_once() -> None:
    async with dialled() as made:
        made.failure = StoreUnavailableError("store", "it is down")
        for _ in range(5):
            assert made.connections.take() is None
            await asyncio.sleep(0.001)
        assert made.dials == 1


@pytest.mark.asyncio
async def test_those_that_nobody_has_needed_for_a_while_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.02)
    async with dialled() as made:
        one, other = await made.taken(), await made.taken()
        made.connections.put_back(other)
        made.connections.put_back(one)
        async with asyncio.timeout(5):
            while made.connections.open_connections:
                await asyncio.sleep(0.005)
        assert not one.stream.is_open
        connection: Connection = await made.taken()  # and another one is opened when it is needed
        assert connection.stream.is_open


@pytest.mark.asyncio
@pytest.mark.parametrize("wire", ["plain", "tls"])
@pytest.mark.parametrize("what", ["value", "values", "line"])
async def test_a_call_ends_by_its_deadline_though_its_bytes_trickle(wire: str, what: str) -> None:
    nbytes = 100_000
    said = bytes(nbytes)

    async def receive(stream: ThreadStream) -> None:
        dest = memoryview(bytearray(nbytes))
        match what:
            case "value":
                await stream.receive_into(dest)
            case "values":
                await stream.receive_into_all([dest[:50_000], dest[50_000:]])
            case _:
                await stream.read_until_crlf()

    def call(made: Wire) -> float:
        stream = ThreadStream(made)
        stream.look_often()
        began = time.monotonic()
        stream.deadline = began + 0.3
        with pytest.raises(StreamClosedError, match="gave no answer in time"):
            receive(stream).send(None)
        stream.hand_back()
        return time.monotonic() - began

    async def trickle(peer: socket.socket, said: bytes) -> None:
        loop = asyncio.get_running_loop()
        for at in range(0, len(said), 2):
            await loop.sock_sendall(peer, said[at : at + 2])
            await asyncio.sleep(0.01)

    async def ended(made: Wire, peer: socket.socket, said: bytes) -> None:
        trickling = asyncio.create_task(trickle(peer, said))
        try:
            assert await asyncio.wait_for(asyncio.to_thread(call, made), 10) < 5
        finally:
            trickling.cancel()
            await asyncio.wait([trickling])
            made.close()

    if wire == "tls":
        async with tls_pair(stall_timeout=20) as (made, peer):
            await ended(made, peer.sock, peer.encrypted(said))
        return
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.setblocking(False)
        await ended(Wire(ours, "the peer", 20), theirs, said)
