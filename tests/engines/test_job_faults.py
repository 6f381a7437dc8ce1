"""Stores that hang, die, or refuse the login, and an event loop that stands still, while jobs are under way."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import Final
from uuid import uuid4

import pytest

from lmcache_connect import StoreUnavailableError, regions_of
from lmcache_connect.engines.jobs import JobPort, JobResult
from lmcache_connect.testing import Direction, Fault, FaultKind, FaultProxy, ValkeyServer

from .conftest import OpenPort

SIZE: Final = 4 << 20
LATE: Final = 1.0
"""Seconds that a busy machine may add to a deadline."""

MODES: Final = pytest.mark.parametrize("io", ["io=thread", "io=loop"])


class Watched:
    """Buffers of a job, painted over when its result has come. They must stay as they are painted."""

    def __init__(self, count: int, size: int = SIZE) -> None:
        self.buffers = [bytearray(size) for _ in range(count)]

    def paint(self) -> None:
        for buffer in self.buffers:
            buffer[:] = b"\xa5" * len(buffer)

    def is_untouched(self) -> bool:
        return all(buffer.count(b"\xa5") == len(buffer) for buffer in self.buffers)

    def stays_untouched(self, seconds: float) -> bool:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            if not self.is_untouched():
                return False
            time.sleep(0.01)
        return self.is_untouched()


def result_of(port: JobPort, job: int) -> JobResult:
    result = port.wait(job)
    assert result is not None
    return result


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as started:
        yield started


@pytest.fixture
def proxy(valkey_server: ValkeyServer) -> Iterator[FaultProxy]:
    with FaultProxy(valkey_server.host, valkey_server.port) as started:
        yield started


def stored(url: str, count: int, size: int = SIZE) -> list[str]:
    """Keys of chunks that the store holds."""
    keys = [uuid4().hex for _ in range(count)]
    with JobPort(url) as port:
        assert result_of(port, port.submit_put(keys, [os.urandom(size) for _ in keys])).ok
    return keys


# --------------------------------------------------------------------------------------- a store that hangs


@MODES
def test_a_load_from_a_store_that_hangs_ends_by_its_deadline_and_writes_no_more(
    open_port: OpenPort, valkey_url: str, proxy: FaultProxy, io: str
) -> None:
    keys = stored(valkey_url, 3)
    # No stall is found before the deadline: the deadline itself is what ends the job.
    port = open_port(
        f"redis://{proxy.host}:{proxy.port}?{io}&pool_size=1", deadline=0.7, stall_timeout=60, operation_timeout=60
    )
    watched = Watched(3)
    proxy.arm(Fault(FaultKind.STALL, Direction.TO_CLIENT, after_bytes=SIZE + SIZE // 2))
    result = result_of(port, port.submit_get(keys, watched.buffers))
    watched.paint()
    assert (result.flags, result.reason) == ((True, False, False), "deadline")  # the first one had come
    assert result.seconds <= 0.7 + LATE
    proxy.disarm()
    assert watched.stays_untouched(0.3)
    assert port.statistics().kinds["get"].failures == {"deadline": 1}
    assert result_of(port, port.submit_get(keys, watched.buffers, deadline=10)).ok


@pytest.mark.parametrize("fault", [FaultKind.STALL, FaultKind.RESET])
@MODES
def test_chunks_that_had_come_before_a_load_failed_are_told_and_are_right(
    open_port: OpenPort, valkey_url: str, proxy: FaultProxy, io: str, fault: FaultKind
) -> None:
    size, contents = 1 << 20, [os.urandom(1 << 20) for _ in range(8)]
    keys = [uuid4().hex for _ in contents]
    with JobPort(valkey_url) as port:
        assert result_of(port, port.submit_put(keys, contents)).ok
    # Nothing is tried again: what a second attempt brings would hide what had come with the first.
    port = open_port(f"redis://{proxy.host}:{proxy.port}?{io}&pool_size=1", deadline=2.0, retries=0)
    buffers = [bytearray(size) for _ in keys]
    proxy.arm(Fault(fault, Direction.TO_CLIENT, after_bytes=4 * size + size // 2))
    result = result_of(port, port.submit_get(keys, buffers))
    assert result.error is not None
    assert result.flags == (True,) * 4 + (False,) * 4
    assert buffers[:4] == contents[:4]
    assert result.nbytes == 4 * size
    proxy.disarm()


def test_what_had_come_is_not_told_past_a_wrapper_that_has_not_seen_it(
    open_port: OpenPort, valkey_url: str, proxy: FaultProxy
) -> None:
    size = 1 << 20
    keys = stored(valkey_url, 4, size)
    # An audit judges what a get returns. What a failed one had brought has not been judged.
    port = open_port(f"audit+redis://{proxy.host}:{proxy.port}?pool_size=1", deadline=2.0, retries=0)
    proxy.arm(Fault(FaultKind.RESET, Direction.TO_CLIENT, after_bytes=2 * size + size // 2))
    result = result_of(port, port.submit_get(keys, [bytearray(size) for _ in keys]))
    assert result.error is not None
    assert result.flags == (False,) * 4
    proxy.disarm()


@MODES
def test_what_had_come_with_one_attempt_is_not_told_after_another_one(
    open_port: OpenPort, valkey_url: str, proxy: FaultProxy, io: str
) -> None:
    size = 1 << 20
    keys = stored(valkey_url, 4, size)
    port = open_port(f"redis://{proxy.host}:{proxy.port}?{io}&pool_size=1", deadline=2.0, retries=0)
    memory = [regions_of(bytearray(size), writable=True) for _ in keys]
    told = []
    for after_bytes in (2 * size + size // 2, size // 2):
        proxy.arm(Fault(FaultKind.RESET, Direction.TO_CLIENT, after_bytes=after_bytes))
        with pytest.raises(StoreUnavailableError):
            port.connector.sync.batched_get_into(keys, memory)
        told.append([regions.is_filled for regions in memory])
    assert told == [[True, True, False, False], [False] * 4]
    proxy.disarm()


def test_what_had_come_with_one_job_is_not_told_of_the_next_one_in_the_same_memory(
    open_port: OpenPort, valkey_url: str, proxy: FaultProxy
) -> None:
    size = 1 << 20
    keys = stored(valkey_url, 3, size)
    port = open_port(f"redis://{proxy.host}:{proxy.port}?pool_size=1", deadline=2.0, retries=0)
    watched = Watched(3, size)
    memory = [regions_of(buffer, writable=True) for buffer in watched.buffers]
    reasons = []
    while "CircuitOpenError" not in reasons:
        proxy.arm(Fault(FaultKind.TRUNCATE_AND_CLOSE, Direction.TO_CLIENT, after_bytes=size + size // 2))
        result = result_of(port, port.submit_get(keys, memory))
        reasons.append(result.reason)
        assert result.flags == (result.reason != "CircuitOpenError", False, False), reasons
        watched.paint()
    assert len(reasons) > 1
    assert not any(regions.is_filled for regions in memory)  # each job has regions of its own
    proxy.disarm()


def test_a_chunk_that_the_cache_was_writing_over_is_not_told_as_one_that_had_come(
    open_port: OpenPort, valkey_url: str, proxy: FaultProxy
) -> None:
    size, ends, keys = 16 << 20, 2.0, [uuid4().hex, uuid4().hex]
    writer = open_port(valkey_url)
    assert result_of(writer, writer.submit_put(keys, [b"1" * size, b"B" * size])).ok
    port = open_port(f"hot+redis://{proxy.host}:{proxy.port}?pool_size=1", deadline=ends, retries=1, retry_backoff=1.0)
    loop, buffers = port.manager.owner.loop, [bytearray(size), bytearray(size)]
    proxy.arm(Fault(FaultKind.TRUNCATE_AND_CLOSE, Direction.TO_CLIENT, after_bytes=size + size // 2))
    began = time.monotonic()
    job = port.submit_get(keys, buffers)
    assert proxy.wait_fired(ends)
    proxy.disarm()
    assert result_of(writer, writer.submit_put(keys[:1], [b"2" * size])).ok
    cached = port.connector.sync.get(keys[0])
    assert cached is not None
    torn = threading.Event()

    def hold_up() -> None:
        """Has the job's time run out amid the copy out of the cache, of which the loop does one step at a time."""
        if (buffers[0][0], buffers[0][-1]) == (ord("2"), ord("1")):
            torn.set()
            time.sleep(max(0.0, began + ends - 0.1 - time.monotonic()))
        elif time.monotonic() < began + ends:
            loop.call_soon(hold_up)

    loop.call_soon_threadsafe(hold_up)
    result = result_of(port, job)
    cached.ref_count_down()
    assert torn.is_set()
    assert (result.flags, result.reason) == ((False, False), "deadline")


@pytest.mark.parametrize("fault", ["stopped", "killed"])
@MODES
def test_a_server_that_is_stopped_or_killed_during_loads_and_stores_costs_failures(
    open_port: OpenPort, server: ValkeyServer, fault: str, io: str
) -> None:
    keys = stored(server.url(), 8)
    port = open_port(f"{server.url()}?{io}", deadline=2.0)
    watched, sent = Watched(8), Watched(8)
    jobs = [port.submit_get([key], [buffer]) for key, buffer in zip(keys, watched.buffers, strict=True)]
    jobs.append(port.submit_put(keys, sent.buffers))
    if fault == "stopped":
        server.pause()
    else:
        server.kill()
    results = [result_of(port, job) for job in jobs]
    watched.paint()
    sent.paint()
    assert all(result.seconds <= 2.0 + LATE for result in results)
    assert not results[-1].ok
    for result in results:
        assert result.ok or result.error is not None
    if fault == "stopped":
        server.resume()
    assert watched.stays_untouched(0.3)
    assert sent.is_untouched()


def test_an_open_breaker_answers_at_once_and_the_store_is_used_again_when_it_is_back(
    open_port: OpenPort, server: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "lmcache_connect")
    keys = stored(server.url(), 1, 1000)
    port = open_port(server.url(), stall_timeout=0.2, breaker_reset=0.2)
    server.pause()
    while port.connector.breaker_state.value == "closed":
        result_of(port, port.submit_get(keys, [bytearray(1000)]))
    server.kill()
    refused = [result_of(port, port.submit_get(keys, [bytearray(1000)])) for _ in range(300)]
    assert {result.reason for result in refused} <= {"CircuitOpenError", "StoreUnavailableError"}
    assert sum(result.reason == "CircuitOpenError" for result in refused) >= 290
    lines = [record.message for record in caplog.records if "operation_failed " in record.message]
    assert len(lines) <= 3, lines  # the stall, that the connection ended, and that nobody listens
    server.start()
    ends = time.monotonic() + 10
    while (result := result_of(port, port.submit_exists(["k"]))).error is not None and time.monotonic() < ends:
        time.sleep(0.02)
    assert result.error is None


@pytest.mark.parametrize("errors", ["miss", "raise"])
def test_a_put_that_was_not_stored_is_not_reported_as_stored(open_port: OpenPort, errors: str) -> None:
    for url, settings in ((f"redis://127.0.0.1:1?errors={errors}", {}), ("redis://127.0.0.1:1", {"errors": errors})):
        port = open_port(url, **settings)
        for _ in range(5):
            assert result_of(port, port.submit_put(["a", "b"], [b"x", b"y"])).flags == (False, False)


def test_a_bypassed_connector_stores_nothing_and_says_so(open_port: OpenPort, valkey_url: str) -> None:
    port = open_port(valkey_url)
    port.connector.bypass = True
    assert result_of(port, port.submit_put(["a"], [b"x"])).flags == (False,)
    assert result_of(port, port.submit_get(["a"], [bytearray(1)])).flags == (False,)


def test_a_full_store_is_a_failure_and_loads_go_on(open_port: OpenPort) -> None:
    with ValkeyServer(maxmemory="16mb") as small:
        port = open_port(small.url())
        keys = [uuid4().hex for _ in range(12)]
        results = [result_of(port, port.submit_put([key], [os.urandom(SIZE)])) for key in keys]
        kept = [key for key, result in zip(keys, results, strict=True) if result.ok]
        assert 0 < len(kept) < len(keys)
        assert result_of(port, port.submit_get(kept, Watched(len(kept)).buffers)).ok


# ------------------------------------------------------------------------------------------ a refused login


def test_a_store_that_refuses_the_login_answers_at_once_and_is_told_once(
    open_port: OpenPort, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "lmcache_connect")
    with ValkeyServer(password="right") as guarded, FaultProxy(guarded.host, guarded.port) as proxy:
        port = open_port(f"redis://:wrong@{proxy.host}:{proxy.port}", breaker_reset=0.5)
        results = [result_of(port, port.submit_exists(["a"])) for _ in range(200)]
        assert {result.reason for result in results} == {"AuthenticationError"}
        assert all("wrong" not in str(result.error).replace("WRONGPASS", "") for result in results)
        assert proxy.connections <= 6
        assert port.status()["refused"] == "AuthenticationError"
        lines = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert len(lines) == 1, [record.message for record in lines]
        with guarded.client() as client:
            client.config_set("requirepass", "wrong")
        guarded.password = "wrong"
        ends = time.monotonic() + 10
        while (result := result_of(port, port.submit_exists(["a"]))).error is not None and time.monotonic() < ends:
            time.sleep(0.05)
        assert result.error is None
        assert port.status()["refused"] is None


# --------------------------------------------------------------------------------- a loop that stands still


class Holding:
    """Holds the loop of a port's connector in code that is not the toolkit's, until `end`."""

    def __init__(self, port: JobPort) -> None:
        self.ended = threading.Event()
        began = threading.Event()

        def hold() -> None:
            began.set()
            self.ended.wait(30)

        port.manager.owner.loop.call_soon_threadsafe(hold)
        assert began.wait(10)

    def end(self) -> None:
        self.ended.set()


def end_loop_callbacks(port: JobPort) -> None:
    """Returns when the loop has run what was due."""
    done = threading.Event()
    loop = port.manager.owner.loop
    loop.call_soon_threadsafe(lambda: loop.call_later(0.05, done.set))
    assert done.wait(10)


@MODES
def test_a_load_ends_by_its_deadline_where_the_loop_stands_still_and_writes_nothing_when_it_goes_on(
    open_port: OpenPort, valkey_url: str, proxy: FaultProxy, io: str
) -> None:
    keys = stored(valkey_url, 3)
    port = open_port(f"redis://{proxy.host}:{proxy.port}?{io}", deadline=0.7, stall_timeout=60, operation_timeout=60)
    watched = Watched(3)
    proxy.arm(Fault(FaultKind.STALL, Direction.TO_CLIENT, after_bytes=SIZE + SIZE // 2))
    job = port.submit_get(keys, watched.buffers)
    assert proxy.wait_fired(10)
    holding = Holding(port)
    proxy.disarm()  # the bytes wait in the socket
    result = result_of(port, job)
    watched.paint()
    if not result.ok:  # a thread may have received all of it meanwhile, but cannot have told the loop
        assert result.reason == "deadline"
    assert result.seconds <= 0.7 + LATE
    holding.end()
    end_loop_callbacks(port)
    assert watched.stays_untouched(0.2)
    assert result_of(port, port.submit_get(keys, watched.buffers, deadline=10)).ok


def test_a_job_that_the_loop_never_began_ends_by_its_deadline_and_is_not_begun_later(
    open_port: OpenPort, valkey_url: str
) -> None:
    keys = stored(valkey_url, 2)
    port = open_port(valkey_url, deadline=0.3)
    holding = Holding(port)
    watched, sent = Watched(2), Watched(1)
    new = [uuid4().hex]
    jobs = [port.submit_get(keys, watched.buffers), port.submit_put(new, sent.buffers), port.submit_remove(keys)]
    results = [result_of(port, job) for job in jobs]
    watched.paint()
    assert {result.reason for result in results} == {"deadline"}
    holding.end()
    end_loop_callbacks(port)
    assert watched.stays_untouched(0.1)
    assert result_of(port, port.submit_exists([*keys, *new], deadline=10)).flags == (True, True, False)
    assert port.statistics().waiting_store_bytes == 0


@pytest.mark.parametrize("what", ["close", "release_memory"])
@MODES
def test_a_port_lets_go_of_memory_also_where_the_loop_stands_still(
    open_port: OpenPort, valkey_url: str, proxy: FaultProxy, io: str, what: str
) -> None:
    keys = stored(valkey_url, 3)
    other = open_port(f"redis://{proxy.host}:{proxy.port}?{io}", deadline=60, stall_timeout=50, operation_timeout=60)
    port = open_port(f"redis://{proxy.host}:{proxy.port}?{io}", deadline=60, stall_timeout=50, operation_timeout=60)
    watched = Watched(3)
    proxy.arm(Fault(FaultKind.STALL, Direction.TO_CLIENT, after_bytes=SIZE + SIZE // 2))
    job = port.submit_get(keys, watched.buffers)
    assert proxy.wait_fired(10)
    holding = Holding(port)
    proxy.disarm()
    if what == "close":
        port.close(grace=0)
    else:
        assert port.release_memory()
    watched.paint()
    result = result_of(port, job)
    assert result.reason == ("closed" if what == "close" else "released")
    holding.end()
    end_loop_callbacks(other)
    assert watched.stays_untouched(0.1)


# ---------------------------------------------------------------------------------------- close during jobs


def jobs_under_way(port: JobPort, keys: list[str], watched: Watched) -> list[int]:
    return [
        port.submit_get(keys, watched.buffers[: len(keys)]),
        port.submit_put([uuid4().hex], watched.buffers[len(keys) :]),
        port.submit_exists(keys),
    ]


@MODES
def test_closing_ends_the_jobs_under_way_and_every_waiting_thread_has_an_answer(
    open_port: OpenPort, valkey_url: str, proxy: FaultProxy, io: str
) -> None:
    keys = stored(valkey_url, 2)
    port = open_port(f"redis://{proxy.host}:{proxy.port}?{io}", deadline=60, stall_timeout=50, operation_timeout=60)
    watched = Watched(3)
    proxy.arm(Fault(FaultKind.STALL, Direction.TO_CLIENT))
    jobs = jobs_under_way(port, keys, watched)
    results: dict[int, JobResult | None] = {}
    waiters = [threading.Thread(target=lambda job=job: results.update({job: port.wait(job)})) for job in jobs]
    for waiter in waiters:
        waiter.start()
    started = time.monotonic()
    closers = [threading.Thread(target=lambda: port.close(grace=0.1)) for _ in range(3)]
    for thread in closers:
        thread.start()
    for thread in [*closers, *waiters]:
        thread.join(20)
        assert not thread.is_alive()
    assert time.monotonic() - started < 5
    watched.paint()
    assert {result.reason for result in results.values() if result is not None} == {"closed"}
    assert len(results) == 3
    proxy.disarm()
    assert watched.stays_untouched(0.2)


def test_jobs_of_one_port_go_on_when_another_port_of_the_same_store_is_closed(
    open_port: OpenPort, valkey_url: str, proxy: FaultProxy
) -> None:
    keys = stored(valkey_url, 2)
    url = f"redis://{proxy.host}:{proxy.port}"
    going, closing = open_port(url, stall_timeout=8), open_port(url, stall_timeout=8)
    watched = Watched(4)
    proxy.arm(Fault(FaultKind.STALL, Direction.TO_CLIENT, after_bytes=SIZE // 2))
    kept = going.submit_get(keys, watched.buffers[:2])
    ended = closing.submit_get(keys, watched.buffers[2:])
    assert proxy.wait_fired(10)
    closing.close(grace=0)
    assert result_of(closing, ended).reason == "closed"
    proxy.disarm()
    assert result_of(going, kept).ok
