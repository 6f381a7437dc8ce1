"""The proxy forwards everything until a fault is armed, and breaks exactly what the fault says."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from lmcache_connect.errors import InvalidArgumentError
from lmcache_connect.testing import Direction, Fault, FaultKind, FaultProxy, ValkeyServer, Weather
from lmcache_connect.testing.servers.proxy_connection import BUFFER_BYTES
from lmcache_connect.testing.servers.proxy_engine import ProxyNotRunningError

Connect = Callable[[], tuple[socket.socket, socket.socket]]
SOME = bytes(range(256)) * 4
MUCH = random.Random(7).randbytes(8 * 1024 * 1024)


@pytest.fixture
def upstream() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        yield listener


@pytest.fixture
def proxy(upstream: socket.socket) -> Iterator[FaultProxy]:
    with FaultProxy(*upstream.getsockname()) as proxy:
        yield proxy


@pytest.fixture
def connect(proxy: FaultProxy, upstream: socket.socket) -> Iterator[Connect]:
    """Makes a client's connection through the proxy; gives it and the server's end of it."""
    ends: list[socket.socket] = []

    def connect() -> tuple[socket.socket, socket.socket]:
        ends.append(socket.create_connection((proxy.host, proxy.port), timeout=5))
        ends.append(upstream.accept()[0])
        ends[-1].settimeout(5)
        return ends[-2], ends[-1]

    yield connect
    for end in ends:
        end.close()


def receive(end: socket.socket, size: int) -> bytes:
    """`size` bytes, or fewer where the stream ends before."""
    data = bytearray()
    while len(data) < size and (piece := end.recv(min(size - len(data), 1 << 20))):
        data += piece
    return bytes(data)


def receive_all(end: socket.socket) -> bytes:
    return receive(end, 1 << 40)


def gets_nothing(end: socket.socket) -> bool:
    end.settimeout(0.05)
    try:
        end.recv(1)
    except TimeoutError:
        return True
    finally:
        end.settimeout(5)
    return False


def gets_a_reset(end: socket.socket) -> bool:
    try:
        end.recv(1)
    except ConnectionResetError:
        return True
    return False


def reset(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()


# --------------------------------------------------------------------------------------- without any fault


def test_bytes_arrive_unchanged_and_in_order_both_ways_at_once(proxy: FaultProxy, connect: Connect) -> None:
    client, server = connect()
    with ThreadPoolExecutor() as pool:
        pool.submit(client.sendall, MUCH)
        pool.submit(server.sendall, MUCH[::-1])
        upwards = pool.submit(receive, server, len(MUCH))
        downwards = pool.submit(receive, client, len(MUCH))
        assert upwards.result() == MUCH
        assert downwards.result() == MUCH[::-1]
    assert (proxy.connections, proxy.bytes_to_server, proxy.bytes_to_client) == (1, len(MUCH), len(MUCH))


def test_connections_do_not_mix(connect: Connect) -> None:
    pairs = [connect() for _ in range(20)]
    for number, (client, server) in enumerate(pairs):
        client.sendall(b"c%02d" % number)
        server.sendall(b"s%02d" % number)
    for number, (client, server) in enumerate(pairs):
        assert receive(server, 3) == b"c%02d" % number
        assert receive(client, 3) == b"s%02d" % number


def test_a_reader_that_does_not_read_stops_the_sender_and_loses_nothing(connect: Connect) -> None:
    client, server = connect()
    sent = 0
    server.settimeout(0.2)
    with pytest.raises(TimeoutError):
        while sent < 1 << 30:
            sent += server.send(MUCH[sent % len(MUCH) :])
    # What remains is in the proxy's buffer and in four of the kernel's.
    assert sent < BUFFER_BYTES + 4 * (32 << 20)
    server.shutdown(socket.SHUT_WR)
    received = receive_all(client)
    assert len(received) == sent
    whole, rest = divmod(sent, len(MUCH))
    assert received == MUCH * whole + MUCH[:rest]


def test_a_half_closed_connection_still_carries_the_answer(connect: Connect) -> None:
    client, server = connect()
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    assert receive_all(server) == b"question"
    server.sendall(MUCH[: 1 << 20])
    server.close()
    assert receive_all(client) == MUCH[: 1 << 20]


def test_a_reset_is_handed_on_as_a_reset(connect: Connect) -> None:
    client, server = connect()
    reset(client)
    assert gets_a_reset(server)
    client, server = connect()
    reset(server)
    assert gets_a_reset(client)


def test_an_answer_sent_just_before_a_reset_still_arrives(connect: Connect) -> None:
    client, server = connect()
    client.sendall(b"question")
    assert server.recv(1) == b"q"
    server.sendall(b"-ERR go away")
    server.close()  # with unread bytes: the kernel sends a reset
    assert receive(client, 12) == b"-ERR go away"


def test_a_client_gets_a_reset_when_the_server_cannot_be_reached(proxy: FaultProxy, upstream: socket.socket) -> None:
    upstream.close()
    # The reset may come before connect() has returned.
    with pytest.raises(ConnectionResetError):
        with socket.create_connection((proxy.host, proxy.port), timeout=5) as client:
            client.recv(1)


def test_drop_all_closes_both_ends_and_lets_new_connections_in(proxy: FaultProxy, connect: Connect) -> None:
    pairs = [connect() for _ in range(3)]
    waiting = socket.create_connection((proxy.host, proxy.port), timeout=5)
    proxy.drop_all()
    assert [end.recv(1) for pair in pairs for end in pair] == [b""] * 6
    with waiting:
        # A reset where the connection to the server was not made yet, an end otherwise.
        try:
            assert waiting.recv(1) == b""
        except ConnectionResetError:
            pass
    assert proxy.connections == 4


# ------------------------------------------------------------------------------------------------ each fault


def test_a_reset_lets_after_bytes_pass_and_reaches_both_ends(proxy: FaultProxy, connect: Connect) -> None:
    client, server = connect()
    proxy.arm(Fault(FaultKind.RESET, after_bytes=600))
    server.sendall(SOME)
    assert receive(client, 600) == SOME[:600]
    assert gets_a_reset(client)
    assert gets_a_reset(server)
    assert proxy.bytes_to_client == 600


def test_a_close_lets_after_bytes_pass_and_ends_both_directions_in_order(proxy: FaultProxy, connect: Connect) -> None:
    client, server = connect()
    proxy.arm(Fault(FaultKind.CLOSE, after_bytes=600))
    server.sendall(SOME)
    assert receive_all(client) == SOME[:600]
    assert receive_all(server) == b""


def test_a_client_that_is_still_sending_sees_a_close_as_an_end_and_not_as_a_reset(
    proxy: FaultProxy, connect: Connect
) -> None:
    client, server = connect()
    proxy.arm(Fault(FaultKind.CLOSE, Direction.TO_SERVER, after_bytes=600))
    client.sendall(SOME)
    assert receive_all(server) == SOME[:600]
    client.sendall(SOME)
    assert client.recv(1) == b""


def test_a_truncation_passes_exactly_after_bytes_and_leaves_the_other_direction_open(
    proxy: FaultProxy, connect: Connect
) -> None:
    client, server = connect()
    proxy.arm(Fault(FaultKind.TRUNCATE_AND_CLOSE, after_bytes=5_000_001))
    with ThreadPoolExecutor() as pool:
        sending = pool.submit(server.sendall, MUCH)
        assert receive_all(client) == MUCH[:5_000_001]
        sending.result()
    client.sendall(b"more")
    assert receive(server, 4) == b"more"
    client.close()
    assert receive_all(server) == b""


def test_a_stall_holds_the_bytes_until_it_is_disarmed(proxy: FaultProxy, connect: Connect) -> None:
    client, server = connect()
    proxy.arm(Fault(FaultKind.STALL, after_bytes=600))
    server.sendall(SOME)
    assert receive(client, 600) == SOME[:600]
    assert gets_nothing(client)
    client.sendall(SOME)
    assert receive(server, len(SOME)) == SOME
    server.sendall(SOME)
    server.close()
    assert gets_nothing(client)
    proxy.disarm()
    assert receive_all(client) == SOME[600:] + SOME


def test_a_stall_hands_back_pressure_on(proxy: FaultProxy, connect: Connect) -> None:
    _, server = connect()
    proxy.arm(Fault(FaultKind.STALL))
    server.settimeout(0.2)
    sent = 0
    with pytest.raises(TimeoutError):
        while sent < 1 << 30:
            sent += server.send(MUCH)
    assert proxy.bytes_to_client == 0


def test_a_swallowed_direction_loses_everything_but_its_end(proxy: FaultProxy, connect: Connect) -> None:
    client, server = connect()
    proxy.arm(Fault(FaultKind.SWALLOW, Direction.TO_SERVER, after_bytes=3))
    client.sendall(b"abcdef")
    assert receive(server, 3) == b"abc"
    client.sendall(MUCH)
    assert gets_nothing(server)
    server.sendall(b"answer")
    assert receive(client, 6) == b"answer"
    client.shutdown(socket.SHUT_WR)
    assert receive_all(server) == b""


def test_after_a_swallow_is_disarmed_later_bytes_arrive(proxy: FaultProxy, connect: Connect) -> None:
    client, server = connect()
    proxy.arm(Fault(FaultKind.SWALLOW))
    server.sendall(b"lost")
    assert proxy.wait_fired(5)
    assert gets_nothing(client)
    proxy.disarm()
    server.sendall(b"kept")
    assert receive(client, 4) == b"kept"


def test_delayed_bytes_and_their_end_arrive_late_and_in_order(proxy: FaultProxy, connect: Connect) -> None:
    client, server = connect()
    proxy.arm(Fault(FaultKind.DELAY, after_bytes=4, delay=0.15))
    server.sendall(b"fast")
    assert receive(client, 4) == b"fast"
    assert proxy.fired == 0
    started = time.monotonic()
    with ThreadPoolExecutor() as pool:
        pool.submit(server.sendall, MUCH)
        assert client.recv(1) == MUCH[:1]
        assert time.monotonic() - started >= 0.15
        assert receive(client, len(MUCH) - 1) == MUCH[1:]
    started = time.monotonic()
    server.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    assert time.monotonic() - started >= 0.15


def test_disarming_a_delay_releases_what_it_holds(proxy: FaultProxy, connect: Connect) -> None:
    client, server = connect()
    proxy.arm(Fault(FaultKind.DELAY, delay=60))
    server.sendall(SOME)
    assert proxy.wait_fired(5)
    server.sendall(SOME)
    proxy.disarm()
    assert receive(client, 2 * len(SOME)) == SOME + SOME


def test_a_flip_inverts_one_bit_of_one_byte(proxy: FaultProxy, connect: Connect) -> None:
    client, server = connect()
    proxy.arm(Fault(FaultKind.FLIP, after_bytes=3_000_000))
    with ThreadPoolExecutor() as pool:
        pool.submit(server.sendall, MUCH)
        received = receive(client, len(MUCH))
    assert received[:3_000_000] == MUCH[:3_000_000]
    assert received[3_000_000] ^ MUCH[3_000_000] == 1
    assert received[3_000_001:] == MUCH[3_000_001:]
    assert proxy.fired == 1


def test_refused_connections_are_closed_at_once_without_reaching_the_server(
    proxy: FaultProxy, upstream: socket.socket, connect: Connect
) -> None:
    client, server = connect()
    proxy.arm(Fault(FaultKind.REFUSE, count=2))
    for _ in range(2):
        with socket.create_connection((proxy.host, proxy.port), timeout=5) as refused:
            assert refused.recv(1) == b""
    upstream.setblocking(False)
    with pytest.raises(BlockingIOError):
        upstream.accept()
    upstream.settimeout(5)
    assert proxy.connections == 3
    server.sendall(SOME)
    assert receive(client, len(SOME)) == SOME
    third, server = connect()
    server.sendall(SOME)
    assert receive(third, len(SOME)) == SOME


# ----------------------------------------------------------------------------------------- when a fault fires


@pytest.mark.parametrize("kind", list(FaultKind))
def test_an_idle_connection_and_the_other_direction_are_left_alone(
    proxy: FaultProxy, connect: Connect, kind: FaultKind
) -> None:
    client, server = connect()
    server.sendall(b"before")
    assert receive(client, 6) == b"before"
    needs: dict[FaultKind, dict[str, Any]] = {
        FaultKind.DELAY: {"delay": 60},
        FaultKind.DRIP: {"rate": 1},
        FaultKind.INSERT: {"data": b"x"},
    }
    proxy.arm(Fault(kind, Direction.TO_CLIENT, **needs.get(kind, {})))
    client.sendall(MUCH[:100_000])
    assert receive(server, 100_000) == MUCH[:100_000]
    assert gets_nothing(client)
    assert not proxy.wait_fired(0)
    assert proxy.fired == 0


@pytest.mark.parametrize("kind", [FaultKind.RESET, FaultKind.CLOSE, FaultKind.TRUNCATE_AND_CLOSE])
def test_an_ending_fault_fires_on_the_last_byte_without_waiting_for_another(
    proxy: FaultProxy, connect: Connect, kind: FaultKind
) -> None:
    client, server = connect()
    proxy.arm(Fault(kind, after_bytes=len(SOME)))
    server.sendall(SOME)
    assert proxy.wait_fired(5)
    assert receive(client, len(SOME)) == SOME
    assert gets_a_reset(client) if kind is FaultKind.RESET else client.recv(1) == b""


def test_bytes_are_counted_from_the_moment_of_arming_and_on_each_connection(
    proxy: FaultProxy, connect: Connect
) -> None:
    old, old_server = connect()
    old_server.sendall(SOME)
    assert receive(old, len(SOME)) == SOME
    proxy.arm(Fault(FaultKind.CLOSE, after_bytes=10))
    new, new_server = connect()
    for server in (old_server, new_server):
        server.sendall(b"123456789")
    for client in (old, new):
        assert receive(client, 9) == b"123456789"
    assert proxy.fired == 0
    for server in (old_server, new_server):
        server.sendall(b"0123")
    for client in (old, new):
        assert receive_all(client) == b"0"
    assert proxy.fired == 2


def test_a_counted_fault_spares_further_connections_and_keeps_its_hold(proxy: FaultProxy, connect: Connect) -> None:
    proxy.arm(Fault(FaultKind.STALL, count=1))
    first, first_server = connect()
    second, second_server = connect()
    first_server.sendall(SOME)
    assert proxy.wait_fired(5)
    second_server.sendall(SOME)
    assert receive(second, len(SOME)) == SOME
    assert gets_nothing(first)
    assert proxy.fired == 1
    proxy.disarm()
    assert receive(first, len(SOME)) == SOME
    assert proxy.fired == 1


def test_arming_another_fault_ends_the_hold_of_the_one_before(proxy: FaultProxy, connect: Connect) -> None:
    client, server = connect()
    proxy.arm(Fault(FaultKind.STALL))
    server.sendall(SOME)
    assert proxy.wait_fired(5)
    proxy.arm(Fault(FaultKind.CLOSE, after_bytes=600))
    # The held bytes are forwarded after the arming, so they count.
    assert receive_all(client) == SOME[:600]
    assert proxy.fired == 1


def test_wait_fired_tells_whether_the_fault_has_fired(proxy: FaultProxy, connect: Connect) -> None:
    _, server = connect()
    proxy.arm(Fault(FaultKind.FLIP))
    assert not proxy.wait_fired(0.01)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(proxy.wait_fired, 5)
        server.sendall(b"x")
        assert waiting.result()
    proxy.arm(Fault(FaultKind.FLIP))
    assert not proxy.wait_fired(0)


@pytest.mark.asyncio
async def test_an_event_loop_can_await_a_fault_while_it_serves_the_connection(proxy: FaultProxy) -> None:
    proxy.arm(Fault(FaultKind.CLOSE, Direction.TO_SERVER, after_bytes=5))
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    writer.write(b"hello world")
    assert await asyncio.to_thread(proxy.wait_fired, 5)
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("after_bytes", {"kind": FaultKind.RESET, "after_bytes": -1}),
        ("after_bytes", {"kind": FaultKind.REFUSE, "after_bytes": 1}),
        ("count", {"kind": FaultKind.RESET, "count": 0}),
        ("delay", {"kind": FaultKind.DELAY}),
        ("delay", {"kind": FaultKind.DELAY, "delay": float("nan")}),
        ("delay", {"kind": FaultKind.STALL, "delay": 1.0}),
    ],
)
def test_a_fault_that_could_not_do_what_it_says_is_refused(argument: str, values: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match=f"'{argument}'.*expected"):
        Fault(**values)


# --------------------------------------------------------------------------------------------------- lifetime


def lowest_free_descriptor() -> int:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    os.close(descriptor)
    return descriptor


@pytest.mark.parametrize(
    "fault",
    [
        None,
        Fault(FaultKind.STALL),
        Fault(FaultKind.DELAY, delay=60),
        Fault(FaultKind.CLOSE),
        Fault(FaultKind.TRUNCATE_AND_CLOSE),
    ],
    ids=lambda fault: fault.kind.value if fault is not None else "none",
)
def test_stop_closes_everything_at_once_whatever_is_armed(upstream: socket.socket, fault: Fault | None) -> None:
    threads, descriptor = threading.active_count(), lowest_free_descriptor()
    proxy = FaultProxy(*upstream.getsockname())
    proxy.start()
    with socket.create_connection((proxy.host, proxy.port), timeout=5) as client:
        with upstream.accept()[0] as server:
            server.settimeout(5)
            if fault is not None:
                proxy.arm(fault)
            server.sendall(SOME)
            assert proxy.wait_fired(5) if fault is not None else receive(client, len(SOME)) == SOME
            started = time.monotonic()
            proxy.stop()
            assert time.monotonic() - started < 1
            proxy.stop()
            assert server.recv(1) == b""
            receive_all(client)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((proxy.host, proxy.port), timeout=5)
    assert threading.active_count() <= threads  # one of an earlier test may have ended meanwhile
    assert lowest_free_descriptor() == descriptor


def test_a_closed_connection_leaves_no_descriptor_behind(proxy: FaultProxy, connect: Connect) -> None:
    descriptor = lowest_free_descriptor()
    for _ in range(3):
        client, server = connect()
        client.close()
        assert server.recv(1) == b""
        server.close()
    proxy.disarm()  # the proxy's thread has then seen the last close, or sees it in the next round
    deadline = time.monotonic() + 5
    while lowest_free_descriptor() != descriptor and time.monotonic() < deadline:
        proxy.disarm()
    assert lowest_free_descriptor() == descriptor


def test_a_proxy_started_again_listens_on_the_same_port(upstream: socket.socket) -> None:
    proxy = FaultProxy(*upstream.getsockname())
    with proxy:
        port = proxy.port
    with proxy:
        assert proxy.port == port
        with socket.create_connection((proxy.host, port), timeout=5), upstream.accept()[0]:
            assert proxy.connections == 1


def test_a_port_taken_while_the_proxy_was_stopped_is_reported(upstream: socket.socket) -> None:
    proxy = FaultProxy(*upstream.getsockname())
    with proxy:
        pass
    with socket.create_server((proxy.host, proxy.port)):
        with pytest.raises(OSError) as caught:
            proxy.start()
    assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("count", [1, None])
def test_a_drip_lets_few_bytes_through_until_it_is_disarmed(
    proxy: FaultProxy, connect: Connect, count: int | None
) -> None:
    client, server = connect()
    proxy.arm(Fault(FaultKind.DRIP, after_bytes=10, rate=2000, count=count))
    begun = time.monotonic()
    server.sendall(SOME)
    assert client.recv(10) == SOME[:10]
    got = b""
    while len(got) < 200:
        got += client.recv(1000)
    assert time.monotonic() - begun >= 0.08, "200 bytes at 2000 bytes per second, less one drop"
    assert len(got) < 300
    proxy.disarm()
    while len(got) < len(SOME) - 10:
        got += client.recv(1 << 16)
    assert got == SOME[10:]
    client.sendall(SOME)
    assert server.recv(len(SOME), socket.MSG_WAITALL) == SOME, "the other direction is not harmed"


def test_inserted_bytes_stand_at_the_exact_place_once(proxy: FaultProxy, connect: Connect) -> None:
    client, server = connect()
    proxy.arm(Fault(FaultKind.INSERT, after_bytes=3, data=b"+OK"))
    server.sendall(b"abcdef")
    with client.makefile("rb") as received:
        assert received.read(9) == b"abc+OKdef"
        server.sendall(b"abcdef")
        assert received.read(6) == b"abcdef"
    assert proxy.fired == 1


def test_connections_that_are_dropped_with_the_disarming_forward_nothing_more(
    proxy: FaultProxy, connect: Connect
) -> None:
    client, server = connect()
    proxy.arm(Fault(FaultKind.SWALLOW, Direction.TO_SERVER, after_bytes=3))
    client.sendall(b"abcdef")
    assert proxy.wait_fired(5)
    proxy.disarm(drop=True)
    with pytest.raises(OSError):
        for _ in range(100):
            client.sendall(b"ghi")
            time.sleep(0.01)
    assert server.recv(100) == b"abc"
    assert server.recv(100) == b""


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": FaultKind.DRIP},
        {"kind": FaultKind.RESET, "rate": 5},
        {"kind": FaultKind.INSERT},
        {"kind": FaultKind.RESET, "data": b"x"},
    ],
)
def test_a_drip_needs_a_rate_an_insertion_its_bytes_and_nothing_else_has_them(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        Fault(**wrong)


def test_weather_arms_one_fault_after_the_other_and_leaves_a_proxy_without_any(
    proxy: FaultProxy, connect: Connect
) -> None:
    weather = Weather(proxy, random.Random(3), [FaultKind.DRIP, FaultKind.DELAY], calm=(0, 0.001), lasts=(0.01, 0.02))
    client, server = connect()
    with weather:
        while weather.fired.total() < 2:
            server.sendall(SOME * 100)
            client.settimeout(0.001)
            try:
                client.recv(1 << 20)
            except TimeoutError:
                pass
    kinds = {fault.kind for fault in (weather.next_fault() for _ in range(20))}
    assert kinds == {FaultKind.DRIP, FaultKind.DELAY}
    assert set(weather.fired) <= {"drip", "delay"}


def test_a_proxy_that_is_not_running_says_so() -> None:
    proxy = FaultProxy("127.0.0.1", 1)
    for act in (lambda: proxy.arm(Fault(FaultKind.RESET)), proxy.disarm, proxy.drop_all, lambda: proxy.port):
        with pytest.raises(ProxyNotRunningError, match=r"call start\(\)"):
            act()
    proxy.stop()


# --------------------------------------------------------------------------------------------- a real server


def test_a_redis_client_works_through_the_proxy_and_meets_a_reset_inside_a_value() -> None:
    with ValkeyServer() as server, FaultProxy(server.host, server.port) as proxy:
        with redis.Redis(port=proxy.port, protocol=2, retry=Retry(NoBackoff(), 0)) as client:
            client.set("chunk", MUCH)
            assert client.get("chunk") == MUCH
            proxy.arm(Fault(FaultKind.RESET, after_bytes=1_000_000, count=1))
            with pytest.raises(redis.ConnectionError):
                client.get("chunk")
            assert proxy.wait_fired(5)
            assert client.get("chunk") == MUCH
