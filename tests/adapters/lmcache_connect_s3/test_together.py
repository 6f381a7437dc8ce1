"""Concurrent calls share threads and connections. None of them disturbs another, or keeps it waiting for long."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from lmcache_connect import (
    ConnectorClosedError,
    ConnectorConfig,
    ConnectorManager,
    LocalCPUBackend,
    ManagedConnector,
    MemoryObj,
    StoreError,
)
from lmcache_connect.testing import FaultyS3Server
from lmcache_connect.testing.servers.s3_faults import Fault, Refuse, Reply, Request

pytestmark = pytest.mark.asyncio

MIB: Final = 1 << 20
LARGE: Final = 2 * MIB
CONFIG: Final = ConnectorConfig.load(operation_timeout=20, retries=0, breaker_failures=1000, close_grace=0.1)


class Gate(Fault):
    """Answers requests, except that those for names with `held` in them wait until they are let go.

    Answers come `late` by so many seconds. `at_once` is the largest number of requests that were being answered side by
    side.
    """

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.late = 0.0
        self.at_once = 0
        self.held = 0
        self.let_through: list[str] = []
        self._now = 0
        self._lock = threading.Lock()
        self._names: dict[int, str] = {}

    def edit(self, reply: Reply, request: Request) -> None:
        with self._lock:
            self._now += 1
            self.at_once = max(self.at_once, self._now)
            self._names[threading.get_ident()] = request.name

    def send(self, sock: socket.socket, reply: Reply, stop: threading.Event) -> bool:
        name = self._names[threading.get_ident()]
        stop.wait(self.late)
        try:
            if "held" in name:
                sock.sendall(reply.head() + reply.body[:1000])
                self.held += 1
                self.opened.wait(20)
                sock.sendall(reply.body[1000:])
            else:
                super().send(sock, reply, stop)
            self.let_through.append(name)
        finally:
            with self._lock:
                self._now -= 1
        return True


@pytest.fixture
def server() -> Iterator[FaultyS3Server]:
    with FaultyS3Server() as made:
        yield made


@pytest.fixture
def gate(server: FaultyS3Server) -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.opened.set()


@pytest.fixture
def backend() -> Iterator[LocalCPUBackend]:
    with LocalCPUBackend(256 * MIB) as made:
        yield made
        gc.collect()
        assert made.statistics().reserved == 0, made.statistics()


@asynccontextmanager
async def connected(
    server: FaultyS3Server, backend: LocalCPUBackend, **options: Any
) -> AsyncIterator[ManagedConnector]:
    async with ConnectorManager(server.url("p", **options), None, backend, CONFIG) as manager:
        yield manager.create_connector()


def chunk(backend: LocalCPUBackend, key: str, nbytes: int) -> MemoryObj:
    obj = backend.allocate((nbytes,), "uint8")
    assert obj is not None
    obj.byte_array[:] = content(key, nbytes)
    return obj


def content(key: str, nbytes: int) -> bytes:
    return (key.encode() * (nbytes // len(key) + 1))[:nbytes]


async def store(connector: ManagedConnector, backend: LocalCPUBackend, keys: list[str], nbytes: int = LARGE) -> None:
    objs = [chunk(backend, key, nbytes) for key in keys]
    await connector.batched_put(keys, objs)
    for obj in objs:
        obj.ref_count_down()


async def gets(connector: ManagedConnector, key: str, nbytes: int = LARGE) -> bool:
    """Gets a chunk, and returns whether its bytes are right."""
    got = await connector.get(key)
    assert got is not None
    with got:
        return got.byte_array == content(key, nbytes)


async def until_held(gate: Gate, count: int) -> None:
    while gate.held < count:
        await asyncio.sleep(0.005)  # the server is in other threads


@pytest.mark.parametrize("io", ["thread", "loop"])
async def test_a_cancelled_get_disturbs_none_of_those_beside_it(
    server: FaultyS3Server, gate: Gate, backend: LocalCPUBackend, io: str
) -> None:
    others = [f"other-{number}" for number in range(24)]
    async with connected(server, backend, io=io, threads=3, pool_size=4) as connector:
        await store(connector, backend, [*others, "held-1", "held-2"])
        server.plan("GET", gate, None)
        held = [asyncio.ensure_future(connector.get(key)) for key in ("held-1", "held-2")]
        await until_held(gate, 2)
        calls = asyncio.gather(*(gets(connector, key) for key in others))
        await asyncio.sleep(0)
        for task in held:
            task.cancel()
        assert await calls == [True] * len(others)
        for task in held:
            with pytest.raises(asyncio.CancelledError):
                await task
        assert len(server.asked("GET")) == len(others) + 2, "a call was made again"


@pytest.mark.parametrize("io", ["thread", "loop"])
async def test_a_get_returns_while_the_answers_to_others_are_held_back(
    server: FaultyS3Server, gate: Gate, backend: LocalCPUBackend, io: str
) -> None:
    others = [f"other-{number}" for number in range(24)]
    async with connected(server, backend, io=io, threads=3, pool_size=4) as connector:
        await store(connector, backend, [*others, "held-1", "held-2"])
        server.plan("GET", gate, None)
        held = [asyncio.ensure_future(gets(connector, key)) for key in ("held-1", "held-2")]
        await until_held(gate, 2)
        assert all(await asyncio.gather(*(gets(connector, key) for key in others)))
        assert not any(task.done() for task in held)
        gate.opened.set()
        assert all(await asyncio.gather(*held))


@pytest.mark.parametrize("io", ["thread", "loop"])
async def test_a_get_that_is_refused_fails_alone(
    server: FaultyS3Server, gate: Gate, backend: LocalCPUBackend, io: str
) -> None:
    keys = [f"k-{number}" for number in range(24)]
    async with connected(server, backend, io=io, threads=2, pool_size=3, attempts=1) as connector:
        await store(connector, backend, keys)
        server.plan("GET", Refuse(500, "InternalError"), 2)
        results = await asyncio.gather(*(gets(connector, key) for key in keys), return_exceptions=True)
        failed = [result for result in results if result is not True]
        assert len(failed) == 2
        assert all(isinstance(result, StoreError) for result in failed)


async def test_concurrent_large_gets_use_no_more_threads_and_connections_than_one_batch(
    server: FaultyS3Server, gate: Gate, backend: LocalCPUBackend
) -> None:
    keys = [f"k-{number}" for number in range(32)]
    async with connected(server, backend, io="thread", threads=2, pool_size=8) as connector:
        await store(connector, backend, keys)
        server.plan("GET", gate, None)
        assert all(await asyncio.gather(*(gets(connector, key) for key in keys)))
        assert gate.at_once <= 2


async def test_more_threads_serve_a_store_whose_answers_are_late(
    server: FaultyS3Server, gate: Gate, backend: LocalCPUBackend
) -> None:
    keys = [f"k-{number}" for number in range(64)]
    threads = 1 + (os.cpu_count() or 1)
    async with connected(server, backend, io="thread", pool_size=threads + 4) as connector:
        await store(connector, backend, keys, 4096)
        gate.late = 0.05
        server.plan("GET", gate, None)
        assert all(await asyncio.gather(*(gets(connector, key, 4096) for key in keys)))
        assert threads < gate.at_once <= threads + 3, "one connection is for small calls"


async def test_a_small_put_does_not_wait_behind_large_ones(
    server: FaultyS3Server, gate: Gate, backend: LocalCPUBackend
) -> None:
    keys = [f"held-{number}" for number in range(20)]
    async with connected(server, backend, threads=2, pool_size=4) as connector:
        await store(connector, backend, ["small"], 4096)
        await store(connector, backend, keys, LARGE)
        assert await gets(connector, keys[0])  # so that the sizes of chunks are known
        server.plan("GET", gate, None)
        large = [asyncio.ensure_future(gets(connector, key)) for key in keys]
        await until_held(gate, 2)
        put = chunk(backend, "tiny", 4096)
        await connector.put("tiny", put)
        put.ref_count_down()
        assert gate.held == 2
        gate.opened.set()
        assert all(await asyncio.gather(*large))


async def test_one_get_does_not_wait_for_all_of_a_batch_that_was_made_before_it(
    server: FaultyS3Server, gate: Gate, backend: LocalCPUBackend
) -> None:
    keys = [f"batch-{number}" for number in range(20)]
    async with connected(server, backend, io="thread", threads=1) as connector:
        await store(connector, backend, [*keys, "held-0", "single"])
        server.plan("GET", gate, None)
        batch = asyncio.ensure_future(connector.batched_get(["held-0", *keys]))
        await until_held(gate, 1)
        single = asyncio.ensure_future(gets(connector, "single"))
        await asyncio.sleep(0)
        gate.opened.set()
        assert await single
        for obj in await batch:
            assert obj is not None
            obj.ref_count_down()
        assert gate.let_through.index("p/single") <= 2


async def test_the_last_ranges_of_a_chunk_are_fetched_before_another_chunk_is_begun(
    server: FaultyS3Server, gate: Gate, backend: LocalCPUBackend
) -> None:
    keys = [f"k-{number}" for number in range(8)]
    async with connected(server, backend, io="thread", threads=1, range_size=MIB) as connector:
        await store(connector, backend, keys, 3 * MIB)
        server.plan("GET", gate, None)
        assert all(await asyncio.gather(*(gets(connector, key, 3 * MIB) for key in keys)))
    assert gate.let_through == sorted(gate.let_through)


@pytest.mark.parametrize("io", ["thread", "loop"])
async def test_a_get_is_served_whose_turn_comes_while_others_are_being_cancelled(
    server: FaultyS3Server, backend: LocalCPUBackend, io: str
) -> None:
    async with connected(server, backend, io=io, threads=2, pool_size=2) as connector:
        await store(connector, backend, ["k"])
        for turns in range(12):
            cancelled = [asyncio.ensure_future(connector.get("k")) for _ in range(3)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in cancelled:
                task.cancel()
            await asyncio.wait(cancelled)
            for task in cancelled:
                if not task.cancelled() and (got := task.result()) is not None:
                    got.ref_count_down()
            assert await asyncio.wait_for(gets(connector, "k"), 5)


@pytest.mark.parametrize("io", ["thread", "loop"])
async def test_the_buffer_of_a_cancelled_put_is_the_callers_again(
    server: FaultyS3Server, gate: Gate, backend: LocalCPUBackend, io: str
) -> None:
    keys = [f"k-{number}" for number in range(16)]
    async with connected(server, backend, io=io, threads=2, pool_size=2) as connector:
        objs = [chunk(backend, key, LARGE) for key in keys]
        puts = [asyncio.ensure_future(connector.put(key, obj)) for key, obj in zip(keys, objs, strict=True)]
        while not server.asked("PUT"):
            await asyncio.sleep(0)
        for number, task in enumerate(puts):
            if number % 2:
                task.cancel()
        results = await asyncio.gather(*puts, return_exceptions=True)
        for obj in objs:
            obj.byte_array[:] = bytes(LARGE)
            obj.ref_count_down()
        assert [result for result in results[::2] if result is not None] == []
        for key in keys:
            if (got := await connector.get(key)) is not None:
                with got:
                    assert got.byte_array == content(key, LARGE)
            else:
                assert int(key[2:]) % 2, "a put that was not cancelled is missing"


async def test_closing_ends_calls_that_wait_for_a_thread(
    server: FaultyS3Server, gate: Gate, backend: LocalCPUBackend
) -> None:
    keys = [f"held-{number}" for number in range(8)]
    async with connected(server, backend, io="thread", threads=1) as connector:
        await store(connector, backend, keys)
        server.plan("GET", gate, None)
        calls = [asyncio.ensure_future(connector.get(key)) for key in keys]
        await until_held(gate, 1)
        await connector.close()
        for result in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(result, ConnectorClosedError)
    gate.opened.set()
