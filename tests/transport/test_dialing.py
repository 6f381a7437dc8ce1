"""Dialling: an address that drops what is sent to it costs a quarter of a second, and hides no other address."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from lmcache_connect.transport import StreamClosedError, TLSSettings
from lmcache_connect.transport.dialing import AddressInfo, open_first, open_tcp_stream

pytestmark = pytest.mark.asyncio

STALL: Final = 0.6


@contextmanager
def listener(backlog: int = 16) -> Iterator[socket.socket]:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        made.listen(backlog)
        yield made


@contextmanager
def black_hole() -> Iterator[AddressInfo]:
    """An address whose kernel drops SYNs: the queue of its listener is full, and nobody accepts."""
    with listener(0) as full:
        waiting = []
        for _ in range(3):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
            waiting.append(sock)
        try:
            yield info(full)
        finally:
            for sock in waiting:
                sock.close()


def info(at: socket.socket) -> AddressInfo:
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", at.getsockname())


async def test_a_first_address_that_drops_syns_does_not_keep_the_second_from_being_tried() -> None:
    with black_hole() as hole, listener() as good:
        started = time.monotonic()
        stream = await open_first([hole, hole, info(good)], "host", "host:1", None, 10)
        assert 0.2 < time.monotonic() - started < 2
        assert stream.is_open
        stream.close()


async def test_where_every_address_drops_syns_the_stall_timeout_ends_the_call() -> None:
    with black_hole() as hole:
        started = time.monotonic()
        with pytest.raises(StreamClosedError, match=r"cannot connect to host:1: no answer within 0\.6 s"):
            await open_first([hole], "host", "host:1", None, STALL)
        assert STALL - 0.01 < time.monotonic() - started < STALL + 0.5


async def test_an_address_that_refuses_hands_on_to_the_next_at_once() -> None:
    with listener() as gone:
        refusing = info(gone)
    with listener() as good:
        started = time.monotonic()
        stream = await open_first([refusing, info(good)], "host", "host:1", None, 10)
        assert time.monotonic() - started < 0.2
        stream.close()
    with pytest.raises(StreamClosedError, match="cannot connect to host:1: Connection refused"):
        await open_first([refusing], "host", "host:1", None, 10)


async def test_a_peer_that_answers_no_tls_handshake_costs_the_stall_timeout() -> None:
    with listener() as silent:
        started = time.monotonic()
        with pytest.raises(StreamClosedError, match=r"the TLS handshake with host:1 moved no byte for 0\.6 s"):
            await open_first([info(silent)], "localhost", "host:1", TLSSettings(), STALL)
        assert time.monotonic() - started < STALL + 0.5


async def test_a_caller_that_is_cancelled_leaves_no_socket_and_no_task() -> None:
    with black_hole() as hole:
        tasks = asyncio.all_tasks()
        dialling = asyncio.create_task(open_first([hole, hole, hole], "host", "host:1", None, 10))
        await asyncio.sleep(0.3)
        dialling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialling
        assert asyncio.all_tasks() == tasks


async def test_the_kernel_looks_after_connections_that_are_idle_and_ends_those_that_nobody_acknowledges() -> None:
    with listener() as good:
        stream = await open_tcp_stream("127.0.0.1", good.getsockname()[1], stall_timeout=2.5)
        with socket.socket(fileno=socket.dup(stream._wire.fileno())) as twin:
            assert twin.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                assert twin.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 2500
            if hasattr(socket, "TCP_KEEPIDLE"):
                idle = twin.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
                interval = twin.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
                assert idle + interval <= 7, "a connection that a balancer forgot is found within seconds"
        stream.close()


@pytest.mark.parametrize("host", ["a..b", ".", "a" * 64])
async def test_a_name_that_cannot_be_one_is_not_resolved(host: str) -> None:
    with pytest.raises(StreamClosedError, match="cannot be resolved: a part of it"):
        await open_tcp_stream(host, 1)
