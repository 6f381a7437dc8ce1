"""Connections that do nothing, or too little, keep nobody else out and do not take the process's descriptors."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any, Final

import anyio
import anyio.to_thread
import pytest
from fastapi import APIRouter

from lmcache_connect import ConnectorManager, LocalCPUBackend
from lmcache_connect.internal_api_server import APIServerConfig, InternalAPIServer

from .conftest import client_of

MANY: Final = 300
"""More than `max_connections` and the reserve."""

HALF_A_HEAD: Final = b"GET /version HTTP/1.1\r\nhost: local"
ENDLESS: Final = b"POST /vllm/lookup HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
WITH_BODY: Final = ENDLESS + b"content-length: 1000000\r\n\r\n{"


@asynccontextmanager
async def served(backend: LocalCPUBackend, *routers: APIRouter, **settings: Any) -> AsyncIterator[InternalAPIServer]:
    async with ConnectorManager("memory://connections", None, backend) as manager:
        manager.create_connector()
        async with InternalAPIServer(manager, APIServerConfig.load(**settings), routers=routers) as server:
            yield server


def address_of(server: InternalAPIServer) -> tuple[str, int]:
    host, _, port = (server.address or "").removeprefix("http://").rpartition(":")
    return host, int(port)


@asynccontextmanager
async def holding(server: InternalAPIServer, count: int, sent: bytes = b"") -> AsyncIterator[list[socket.socket]]:
    """So many connections, each of which has sent these bytes."""
    held: list[socket.socket] = []

    def connect() -> None:
        for _ in range(count):
            held.append(socket.create_connection(address_of(server), timeout=10))
            held[-1].sendall(sent)
            held[-1].setblocking(False)

    try:
        await anyio.to_thread.run_sync(connect)  # the server runs on this thread's loop
        yield held
    finally:
        for sock in held:
            sock.close()


def is_ended(sock: socket.socket) -> bool:
    try:
        while sock.recv(65536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    with anyio.fail_after(seconds):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("sent", [b"", HALF_A_HEAD, WITH_BODY], ids=["nothing", "half_a_head", "half_a_body"])
@pytest.mark.asyncio
async def test_three_hundred_connections_that_wait_for_nothing_keep_nobody_out(
    local_cpu_backend: LocalCPUBackend, sent: bytes
) -> None:
    async with served(local_cpu_backend) as server:
        async with holding(server, MANY, sent) as held:
            for path in ("/health/live", "/health/ready", "/version"):
                async with client_of(server) as client:
                    assert (await client.get(path)).status_code == 200
            kept = 256 + 16
            await until(lambda: sum(map(is_ended, held)) >= MANY - kept)
            assert is_ended(held[0])  # the oldest went first
            assert not is_ended(held[-1])


@pytest.mark.parametrize("sent", [b"", HALF_A_HEAD], ids=["nothing", "half_a_head"])
@pytest.mark.asyncio
async def test_a_head_that_does_not_come_in_time_ends_its_connection(
    local_cpu_backend: LocalCPUBackend, sent: bytes
) -> None:
    async with served(local_cpu_backend, head_timeout=0.3) as server:
        async with holding(server, 5, sent) as held:
            await until(lambda: all(map(is_ended, held)))


@pytest.mark.asyncio
async def test_a_head_that_comes_byte_by_byte_has_no_further_time(local_cpu_backend: LocalCPUBackend) -> None:
    async with served(local_cpu_backend, head_timeout=0.4) as server:
        async with holding(server, 1) as (sock,):
            began = time.monotonic()
            head = iter(HALF_A_HEAD + b"x" * 10_000)
            while not is_ended(sock):
                try:
                    sock.send(bytes([next(head)]))
                except OSError:
                    break
                await asyncio.sleep(0.02)
            assert 0.3 < time.monotonic() - began < 5


@pytest.mark.parametrize("path", [b"GET /health/live", b"POST /vllm/lookup", b"GET /no-such-path"])
@pytest.mark.asyncio
async def test_a_body_without_an_end_ends_its_connection(local_cpu_backend: LocalCPUBackend, path: bytes) -> None:
    async with served(local_cpu_backend, head_timeout=0.3, request_timeout=0.3, max_body_bytes=1 << 20) as server:
        head = path + b" HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
        async with holding(server, 1, head) as (sock,):
            with anyio.fail_after(10):
                while not is_ended(sock):
                    try:
                        sock.send(b"1\r\nx\r\n")
                    except BlockingIOError:
                        pass
                    except OSError:
                        break
                    await asyncio.sleep(0.02)


@pytest.mark.asyncio
async def test_a_client_that_does_not_take_its_answers_is_ended(local_cpu_backend: LocalCPUBackend) -> None:
    router = APIRouter()

    @router.get("/large")
    async def large() -> str:
        return "x" * (1 << 20)

    async with served(local_cpu_backend, router, head_timeout=0.3, request_timeout=0.3) as server:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(address_of(server))
            sock.sendall(b"GET /large HTTP/1.1\r\nhost: localhost\r\n\r\n" * 50)
            connections = server._running[0].connections
            await until(lambda: len(connections) == 1)
            await until(lambda: len(connections) == 0)


@pytest.mark.asyncio
async def test_a_connection_that_is_used_is_kept_while_others_come_and_go(local_cpu_backend: LocalCPUBackend) -> None:
    async with served(local_cpu_backend, max_connections=4) as server:
        async with client_of(server) as client:
            with socket.create_connection(address_of(server), timeout=10) as used:
                for _ in range(10):
                    async with holding(server, 15):
                        used.sendall(b"GET /version HTTP/1.1\r\nhost: localhost\r\n\r\n")
                        assert await anyio.to_thread.run_sync(used.recv, 4096)
                assert (await client.get("/health/live")).status_code == 200


@pytest.mark.asyncio
async def test_more_requests_than_are_allowed_are_told_so_and_liveness_is_answered(
    local_cpu_backend: LocalCPUBackend,
) -> None:
    router = APIRouter()
    go_on = asyncio.Event()
    working = 0

    @router.get("/slow")
    async def slow() -> str:
        nonlocal working
        working += 1
        await go_on.wait()
        return "done"

    async with served(local_cpu_backend, router, max_connections=3) as server, client_of(server) as client:
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(client.get("/slow")) for _ in range(3)]
            await until(lambda: working == 3)
            refused = await client.get("/version")
            assert (refused.status_code, refused.json()["problem"]) == (503, "busy")
            assert refused.headers["retry-after"] == "1"
            assert (await client.get("/health/live")).status_code == 200
            go_on.set()
        assert [task.result().json() for task in asked] == ["done"] * 3
        assert (await client.get("/version")).status_code == 200


@pytest.mark.asyncio
async def test_a_request_takes_the_place_of_one_whose_body_does_not_come(local_cpu_backend: LocalCPUBackend) -> None:
    async with served(local_cpu_backend, max_connections=3) as server, client_of(server) as client:
        async with holding(server, 3, WITH_BODY) as held:
            connections = server._running[0].connections
            await until(lambda: len(connections) == 3)
            assert (await client.get("/version")).status_code == 200
            assert [is_ended(sock) for sock in held].count(True) <= 1


@pytest.mark.asyncio
async def test_what_is_no_http_is_answered_and_does_not_flood_the_log(
    local_cpu_backend: LocalCPUBackend, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(local_cpu_backend) as server:
        async with holding(server, 50, b"\x16\x03\x01 no HTTP\r\n\r\n") as held:
            await until(lambda: all(map(is_ended, held)))
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [getattr(record, "connect", {}).get("event") for record in told] == ["api_bad_request"] * 10


FEW_DESCRIPTORS: Final = """
import asyncio, json, resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
from lmcache_connect import ConnectorConfig, ConnectorManager
from lmcache_connect.internal_api_server import APIServerConfig, InternalAPIServer

async def main():
    config = ConnectorConfig.load(max_local_cpu_bytes=1 << 20, retries=0)
    async with ConnectorManager(sys.argv[1], config=config) as manager:
        connector = manager.create_connector()
        async with InternalAPIServer(manager, APIServerConfig.load()) as server:
            print(server.address, flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
            print(json.dumps(await connector.exists("a")), flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)

asyncio.run(main())
"""


def test_the_process_has_descriptors_left_for_its_stores_however_many_connect(valkey_url: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", FEW_DESCRIPTORS, valkey_url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip().removeprefix("http://").split(":")
            with ExitStack() as stack:
                for _ in range(MANY):
                    stack.enter_context(socket.create_connection((address[0], int(address[1])), timeout=10))
                process.stdin.write("\n")
                process.stdin.flush()
                assert json.loads(process.stdout.readline()) is False  # it has connected to its store only now
            _, err = process.communicate("\n", timeout=20)
            assert "Too many open files" not in err
        finally:
            process.kill()
