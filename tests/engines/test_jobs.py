"""A port of jobs on a real store: what results say, when they come, and what is refused."""

from __future__ import annotations

import copy
import ctypes
import gc
import logging
import mmap
import os
import select
import threading
import weakref
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from lmcache_connect import ChunkMetadata, memory_at
from lmcache_connect.engines.jobs import JobPort
from lmcache_connect.errors import (
    ConnectorClosedError,
    InvalidArgumentError,
    InvalidConfigError,
    InvalidKeyError,
    InvalidURLError,
    LMCacheConnectError,
    UnknownSchemeError,
)
from lmcache_connect.testing import ValkeyServer

from .conftest import OpenPort

SIZE = 64 << 10


def keys_of(count: int) -> list[str]:
    return [uuid4().hex for _ in range(count)]


def filled(count: int, size: int = SIZE) -> list[bytes]:
    return [os.urandom(size) for _ in range(count)]


# --------------------------------------------------------------------------------------------------- results


def test_what_was_stored_is_loaded_byte_by_byte_into_the_callers_memory(open_port: OpenPort, valkey_url: str) -> None:
    port = open_port(valkey_url)
    keys, chunks = keys_of(4), filled(4)
    stored = port.wait(port.submit_put(keys, chunks))
    assert stored is not None
    assert (stored.kind, stored.flags, stored.error, stored.nbytes) == ("put", (True,) * 4, None, 4 * SIZE)
    into = [bytearray(SIZE) for _ in keys]
    loaded = port.wait(port.submit_get(keys, into))
    assert loaded is not None
    assert (loaded.kind, loaded.ok, loaded.nbytes) == ("get", True, 4 * SIZE)
    assert [bytes(each) for each in into] == chunks
    assert 0 < loaded.seconds < port.deadline


def test_each_key_has_its_own_answer(open_port: OpenPort, valkey_url: str) -> None:
    port = open_port(valkey_url)
    keys = keys_of(3)
    assert port.wait(port.submit_put(keys[::2], filled(2)))
    found = port.wait(port.submit_get(keys, [bytearray(SIZE) for _ in keys]))
    assert found is not None
    assert (found.flags, found.error, found.nbytes) == ((True, False, True), None, 2 * SIZE)
    there = port.wait(port.submit_exists(keys))
    assert there is not None
    assert (there.flags, there.nbytes) == ((True, False, True), 0)
    gone = port.wait(port.submit_remove(keys))
    assert gone is not None
    assert gone.ok
    there = port.wait(port.submit_exists(keys))
    assert there is not None
    assert there.flags == (False,) * 3


def test_regions_and_addresses_serve_as_memory(open_port: OpenPort, valkey_url: str) -> None:
    port = open_port(valkey_url)
    key = keys_of(1)
    chunk = os.urandom(SIZE)
    assert port.wait(port.submit_put(key, [[chunk[:100], chunk[100:]]]))
    array = (ctypes.c_ubyte * SIZE)()
    half = SIZE // 2
    regions = [memory_at(ctypes.addressof(array), half), memory_at(ctypes.addressof(array) + half, half)]
    found = port.wait(port.submit_get(key, [regions]))
    assert found is not None
    assert found.ok
    assert bytes(array) == chunk


def test_another_description_is_a_miss(open_port: OpenPort, valkey_url: str) -> None:
    port = open_port(valkey_url)
    key = keys_of(1)
    halves = ChunkMetadata.of((SIZE // 2,), "float16")
    assert port.wait(port.submit_put(key, filled(1), halves))
    into = [bytearray(SIZE)]
    for metadata, is_there in ((halves, True), (None, True), (ChunkMetadata.of((SIZE // 4,), "float32"), False)):
        found = port.wait(port.submit_get(key, into, metadata))
        assert found is not None
        assert (found.ok, found.error) == (is_there, None)


def test_a_job_without_keys_has_succeeded(open_port: OpenPort, valkey_url: str) -> None:
    port = open_port(valkey_url)
    for job in (port.submit_get([], []), port.submit_put([], []), port.submit_exists([]), port.submit_remove([])):
        result = port.wait(job)
        assert result is not None
        assert (result.flags, result.error, result.ok) == ((), None, True)


# --------------------------------------------------------------------------------------- how results are told


def is_readable(port: JobPort, seconds: float = 0.0) -> bool:
    return bool(select.select([port.event_fd], [], [], seconds)[0])


def test_the_descriptor_is_readable_while_there_are_results(open_port: OpenPort, valkey_url: str) -> None:
    port = open_port(valkey_url)
    assert not is_readable(port)
    jobs = [port.submit_exists(keys_of(1)) for _ in range(3)]
    drained: list[int] = []
    while len(drained) < 3:
        assert is_readable(port, 10)
        drained += [result.id for result in port.drain()]
    assert sorted(drained) == jobs
    assert not is_readable(port)
    assert port.drain() == []


def test_an_engine_may_read_the_descriptor_itself(open_port: OpenPort, valkey_url: str) -> None:
    port = open_port(valkey_url)
    for _ in range(2):
        job = port.submit_exists(keys_of(1))
        assert is_readable(port, 10)
        os.read(port.event_fd, 8)
        assert [result.id for result in port.drain()] == [job]


def test_a_result_is_given_once(open_port: OpenPort, valkey_url: str) -> None:
    port = open_port(valkey_url)
    job = port.submit_exists(keys_of(1))
    assert port.wait(job, 10) is not None
    assert port.drain() == []
    assert not is_readable(port)
    with pytest.raises(InvalidArgumentError, match=f"{job} is not the number of a job"):
        port.wait(job)
    with pytest.raises(InvalidArgumentError, match="99 is not the number of a job"):
        port.wait(99)


def test_waiting_ends_without_a_result_when_its_time_is_up(open_port: OpenPort, valkey_server: ValkeyServer) -> None:
    port = open_port(valkey_server.url())
    valkey_server.pause()
    try:
        job = port.submit_exists(keys_of(1))
        assert port.wait(job, 0.01) is None
    finally:
        valkey_server.resume()
    assert port.wait(job, 10) is not None


def test_drain_leaves_a_result_to_the_thread_that_awaits_it(open_port: OpenPort, valkey_server: ValkeyServer) -> None:
    port = open_port(valkey_server.url())
    valkey_server.pause()
    try:
        awaited, other = port.submit_exists(keys_of(1)), port.submit_exists(keys_of(1))
        results: list[Any] = []
        waiter = threading.Thread(target=lambda: results.append(port.wait(awaited)))
        waiter.start()
        assert port.wait(other, 0.05) is None
    finally:
        valkey_server.resume()
    drained: list[int] = []
    while not drained:
        assert is_readable(port, 10)
        drained += [result.id for result in port.drain()]
    waiter.join(10)
    assert [result.id for result in results] == [awaited]
    assert drained == [other]


# ------------------------------------------------------------------------------------------------- wrong input

READ_ONLY = bytes(SIZE)
GAPS = memoryview(bytearray(2 * SIZE))[::2]


@pytest.mark.parametrize(
    ("keys", "buffers", "named"),
    [
        (["a", "b"], [bytearray(SIZE)], "buffers"),
        (["a"], [READ_ONLY], "read-only"),
        (["a"], [GAPS], "not contiguous"),
        (["a"], [bytearray()], "0 bytes"),
        (["a"], ["text"], "memory with the buffer protocol"),
        ("a", [bytearray(SIZE)], "expected a sequence of keys"),
        ([""], [bytearray(SIZE)], "empty"),
        ([7], [bytearray(SIZE)], "invalid key 7"),
    ],
)
def test_wrong_arguments_are_named_and_make_no_job(
    open_port: OpenPort, valkey_url: str, keys: Any, buffers: Any, named: str
) -> None:
    port = open_port(valkey_url)
    with pytest.raises((InvalidArgumentError, InvalidKeyError), match=named):
        port.submit_get(keys, buffers)
    assert port.statistics().in_flight == 0


def test_memory_that_was_refused_is_let_go_of(open_port: OpenPort, valkey_url: str) -> None:
    port = open_port(valkey_url)
    with mmap.mmap(-1, SIZE) as mapped:
        with pytest.raises(InvalidKeyError):
            port.submit_get([""], [mapped])
        with pytest.raises(InvalidArgumentError):
            port.submit_get(["a"], [mapped], deadline=0)
        with pytest.raises(InvalidArgumentError):
            port.submit_get(["a", "b"], [mapped, READ_ONLY])  # leaving the block raises where a view is left


@pytest.mark.parametrize(
    ("url", "settings", "error", "named"),
    [
        ("nosuch://host", {}, UnknownSchemeError, "no adapter for the scheme 'nosuch'"),
        ("redis://host?nosuch=1", {}, InvalidURLError, "unknown option 'nosuch'"),
        ("redis://host:port", {}, InvalidURLError, "port"),
        ("", {}, InvalidArgumentError, "it is empty; expected the store's URL"),
        (None, {}, InvalidArgumentError, "a NoneType; expected the store's URL"),
        ("redis://host", {"nosuch": 1}, InvalidConfigError, "nosuch"),
        ("redis://host", {"dedline": 1}, InvalidConfigError, "did you mean 'deadline'.*max_waiting_store_bytes"),
        ("redis://host", {"retries": -1}, InvalidConfigError, "retries"),
        ("redis://host", {"deadline": 0}, InvalidArgumentError, "deadline"),
        ("redis://host", {"deadline": "soon"}, InvalidArgumentError, "deadline"),
        ("redis://host", {"deadline": float("nan")}, InvalidArgumentError, "deadline"),
        ("redis://host", {"max_waiting_store_bytes": "many"}, InvalidArgumentError, "max_waiting_store_bytes"),
        ("redis://host", {"max_waiting_store_bytes": -1}, InvalidArgumentError, "max_waiting_store_bytes"),
    ],
)
def test_a_wrong_configuration_raises_at_construction_and_leaves_nothing(
    url: Any, settings: dict[str, Any], error: type[LMCacheConnectError], named: str
) -> None:
    with pytest.raises(InvalidURLError):
        JobPort("redis://host?nosuch=1")  # what the process keeps from its first port is there when it is counted
    threads, descriptors = threading.enumerate(), len(os.listdir("/proc/self/fd"))
    with pytest.raises(error, match=named):
        JobPort(url, **settings)
    added = [thread for thread in threading.enumerate() if thread not in threads]
    for thread in added:  # what a closed loop has told to end may take a moment
        thread.join(5)
    assert [thread.name for thread in added if thread.is_alive()] == []
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def test_a_port_is_neither_pickled_nor_copied(open_port: OpenPort, valkey_url: str) -> None:
    port = open_port(valkey_url)
    refusing: list[Callable[[], object]] = [
        lambda: port.__reduce_ex__(4),
        lambda: copy.copy(port),
        lambda: copy.deepcopy(port),
    ]
    for refused in refusing:
        with pytest.raises(TypeError, match="cannot pickle a JobPort"):
            refused()


# ------------------------------------------------------------------------------------------------ what is told


def test_the_statistics_count_jobs_keys_bytes_and_failures(open_port: OpenPort, valkey_url: str) -> None:
    port = open_port(valkey_url)
    keys = keys_of(3)
    port.wait(port.submit_put(keys[:2], filled(2)))
    port.wait(port.submit_get(keys, [bytearray(SIZE) for _ in keys]))
    counted = port.statistics()
    put, get = counted.kinds["put"], counted.kinds["get"]
    assert (put.jobs, put.keys, put.succeeded, put.missed, put.nbytes, put.in_flight) == (1, 2, 2, 0, 2 * SIZE, 0)
    assert (get.jobs, get.keys, get.succeeded, get.missed, get.nbytes, get.in_flight) == (1, 3, 2, 1, 2 * SIZE, 0)
    assert get.seconds > 0
    assert counted.waiting_store_bytes == 0
    port.wait(port.submit_exists(keys))
    assert counted.kinds["exists"].jobs == 0, "a copy does not change"


def test_the_status_shows_the_store_without_its_password(open_port: OpenPort) -> None:
    port = open_port("redis://user:s3cret-word@127.0.0.1:1")
    status = port.status()
    assert (status["store"], status["breaker"], status["has_succeeded"]) == ("redis://127.0.0.1:1", "closed", False)
    assert status["jobs"]["get"]["failures"] == {}
    assert "s3cret-word" not in repr(status) + repr(port)


# ---------------------------------------------------------------------------------------------------- closing


def test_a_closed_port_refuses_jobs_and_still_gives_results(open_port: OpenPort, valkey_url: str) -> None:
    port = open_port(valkey_url)
    job = port.submit_exists(keys_of(1))
    assert is_readable(port, 10)
    port.close()
    port.close()
    assert port.event_fd == -1
    assert [result.id for result in port.drain()] == [job]
    for submit in (port.submit_exists, port.submit_remove):
        with pytest.raises(ConnectorClosedError):
            submit(["a"])
    with pytest.raises(ConnectorClosedError), mmap.mmap(-1, SIZE) as mapped:
        port.submit_get(["a"], [mapped])
    assert "closed" in repr(port)


def test_jobs_may_finish_within_the_grace_period(open_port: OpenPort, valkey_url: str) -> None:
    port = open_port(valkey_url)
    keys, chunks = keys_of(8), filled(8, 1 << 20)
    job = port.submit_put(keys, chunks)
    port.close(grace=10)
    result = port.wait(job)
    assert result is not None
    assert result.ok


def test_closing_on_the_event_loops_own_thread_does_not_hold_it(open_port: OpenPort, valkey_url: str) -> None:
    before = set(threading.enumerate())
    port = open_port(valkey_url)
    port.manager.owner.loop.call_soon_threadsafe(port.close)
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()
    port.close()
    assert port.connector.is_closed


def test_a_port_that_is_forgotten_warns_and_leaves_nothing(valkey_url: str) -> None:
    before = set(threading.enumerate())
    port = JobPort(valkey_url)
    assert port.wait(port.submit_exists(["a"])) is not None
    number = port.event_fd
    left = weakref.ref(port)
    with pytest.warns(ResourceWarning, match="was never closed"):
        del port
        while left() is not None:  # the loop's thread may hold the last job for a moment
            gc.collect()
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(number)
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()


# ------------------------------------------------------------------------------------------- several ports


def test_ports_with_one_url_and_the_same_settings_share_a_connector(open_port: OpenPort, valkey_url: str) -> None:
    first, second = open_port(valkey_url), open_port(valkey_url)
    other_settings, other_url = open_port(valkey_url, retries=7), open_port(f"{valkey_url}/1")
    assert first.connector is second.connector
    assert len({id(port.connector) for port in (first, other_settings, other_url)}) == 3
    owners = {id(port.manager.owner.loop) for port in (first, second, other_settings, other_url)}
    assert len(owners) == 1
    assert len([thread for thread in threading.enumerate() if thread.name == "lmcache-connect jobs"]) == 1
    key, chunk = keys_of(1), filled(1)
    first.wait(first.submit_put(key, chunk))
    first.close()
    found = second.wait(second.submit_exists(key))
    assert found is not None
    assert found.ok
    second.close()
    assert second.connector.is_closed
    assert not other_settings.connector.is_closed
    found = other_settings.wait(other_settings.submit_exists(key))
    assert found is not None
    assert found.ok


def test_a_port_that_is_made_after_the_last_one_was_closed_works(open_port: OpenPort, valkey_url: str) -> None:
    for _ in range(3):
        port = open_port(valkey_url)
        assert port.wait(port.submit_exists(["a"])) is not None
        port.close()


def test_an_engines_log_is_not_flooded(open_port: OpenPort, valkey_url: str, caplog: pytest.LogCaptureFixture) -> None:
    port = open_port(valkey_url, max_waiting_store_bytes=0, deadline=5)
    caplog.set_level(logging.INFO, "lmcache_connect")
    chunk = bytes(SIZE)
    jobs = [port.submit_put([f"k{number}"], [chunk]) for number in range(200)]
    results = [port.wait(job) for job in jobs]
    shed = [result for result in results if result is not None and result.reason == "shed"]
    assert port.statistics().shed_jobs == len(shed)
    assert len([record for record in caplog.records if record.message.startswith("engine_stores_shed")]) <= 10
