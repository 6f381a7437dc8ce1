"""The proxy of commands forwards every reply as it is, and spoils the planned ones as their fault says."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from lmcache_connect.testing import FaultyRedisProxy, ValkeyServer, redis_faults


@pytest.fixture
def proxy(valkey_server: ValkeyServer) -> Iterator[FaultyRedisProxy]:
    valkey_server.flush()
    with FaultyRedisProxy(valkey_server.host, valkey_server.port) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: FaultyRedisProxy) -> Iterator[socket.socket]:
    with socket.create_connection((proxy.host, proxy.port), timeout=5) as client:
        yield client


def send(client: socket.socket, *words: bytes) -> None:
    client.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words))


def until(client: socket.socket, end: bytes) -> bytes:
    found = b""
    while not found.endswith(end):
        piece = client.recv(1 << 16)
        assert piece, f"the connection ended after {found!r}"
        found += piece
    return found


def test_replies_of_every_kind_are_passed_on(client: socket.socket, proxy: FaultyRedisProxy) -> None:
    for words, reply in [
        ((b"SET", b"k", b"v" * 100_000), b"+OK\r\n"),
        ((b"GET", b"k"), b"$100000\r\n" + b"v" * 100_000 + b"\r\n"),
        ((b"GET", b"none"), b"$-1\r\n"),
        ((b"DEL", b"k"), b":1\r\n"),
        ((b"MGET", b"a", b"b"), b"*2\r\n$-1\r\n$-1\r\n"),
        ((b"HELLO", b"9"), b"-NOPROTO unsupported protocol version\r\n"),
    ]:
        send(client, *words)
        assert until(client, reply[-9:]) == reply
    send(client, b"HELLO", b"3")
    assert until(client, b"*0\r\n").startswith(b"%7\r\n")
    assert proxy.asked("get") == [b"k", b"none"]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (redis_faults.ErrorReply("LOADING not yet"), b"-LOADING not yet\r\n"),
        (redis_faults.ExtraReply(), b"$2\r\nab\r\n+OK\r\n"),
        (redis_faults.WrongLength(-1), b"$1\r\nab\r\n"),
        (redis_faults.FlippedReply(-3), b"$2\r\nac\r\n"),
        (redis_faults.RawReply(b":7\r\n"), b":7\r\n"),
        (redis_faults.LateReply(0.01), b"$2\r\nab\r\n"),
    ],
)
def test_a_planned_reply_goes_wrong_and_the_next_one_does_not(
    client: socket.socket, proxy: FaultyRedisProxy, fault: redis_faults.ReplyFault, expected: bytes
) -> None:
    send(client, b"SET", b"k", b"ab")
    until(client, b"+OK\r\n")
    proxy.plan("GET", fault)
    send(client, b"GET", b"k")
    assert until(client, expected) == expected
    send(client, b"GET", b"k")
    assert until(client, b"$2\r\nab\r\n") == b"$2\r\nab\r\n"


@pytest.mark.parametrize(
    ("fault", "rest"),
    [(redis_faults.CutReply(3), b"$2\r"), (redis_faults.Hangup(), b"")],
)
def test_a_connection_ends_where_its_fault_says(
    client: socket.socket, proxy: FaultyRedisProxy, fault: redis_faults.ReplyFault, rest: bytes
) -> None:
    send(client, b"SET", b"k", b"ab")
    until(client, b"+OK\r\n")
    proxy.plan("GET", fault)
    send(client, b"GET", b"k")
    found = b""
    while piece := client.recv(100):
        found += piece
    assert found == rest


def test_a_reset_is_one(client: socket.socket, proxy: FaultyRedisProxy) -> None:
    proxy.plan("PING", redis_faults.CutReply(0, reset=True))
    send(client, b"PING")
    with pytest.raises(ConnectionResetError):
        client.recv(100)


@pytest.mark.parametrize("is_done", [True, False])
def test_an_error_reply_says_whether_the_server_was_given_the_command(
    client: socket.socket, proxy: FaultyRedisProxy, valkey_server: ValkeyServer, is_done: bool
) -> None:
    proxy.plan("SET", redis_faults.ErrorReply("OOM no room", is_done=is_done), times=None)
    send(client, b"SET", b"k", b"ab")
    assert until(client, b"\r\n") == b"-OOM no room\r\n"
    with valkey_server.client() as direct:
        assert direct.exists("k") == is_done
    proxy.clear()
    send(client, b"SET", b"k", b"ab")
    assert until(client, b"\r\n") == b"+OK\r\n"


def test_a_reply_that_never_comes_leaves_the_connection_open_and_the_proxy_ends_all_the_same(
    valkey_server: ValkeyServer,
) -> None:
    with FaultyRedisProxy(valkey_server.host, valkey_server.port) as proxy:
        proxy.plan("PING", redis_faults.NoReply())
        with socket.create_connection((proxy.host, proxy.port), timeout=0.05) as client:
            send(client, b"PING")
            with pytest.raises(TimeoutError):
                client.recv(1)
            begun = time.monotonic()
            proxy.stop()
            assert time.monotonic() - begun < 4, "no thread had to be waited for"
