"""The server's life: where it listens, what it says when it cannot, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from fastapi import APIRouter, FastAPI

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend
from lmcache_connect.errors import InvalidArgumentError, InvalidConfigError
from lmcache_connect.internal_api_server import APIServerConfig, InternalAPIServer
from lmcache_connect.internal_api_server.errors import ServerBindError, ServerStateError

from .conftest import client_of, serving

NO_STORE = "memory://api"


def server_of(manager: ConnectorManager, *routers: APIRouter, **settings: Any) -> InternalAPIServer:
    return InternalAPIServer(manager, APIServerConfig.load(**settings), routers=routers)


def slow_router(began: asyncio.Event | threading.Event, seconds: float) -> APIRouter:
    router = APIRouter()

    @router.get("/slow")
    async def slow() -> str:
        began.set()
        await asyncio.sleep(seconds)
        return "done"

    return router


@pytest.mark.asyncio
async def test_start_returns_once_it_listens_and_says_where(local_cpu_backend: LocalCPUBackend) -> None:
    async with ConnectorManager(NO_STORE, None, local_cpu_backend) as manager:
        server = server_of(manager)
        assert server.address is None
        await server.start()
        assert server.address is not None
        assert server.address.startswith("http://127.0.0.1:")
        async with client_of(server) as client:
            assert (await client.get("/health/live")).json() == {"status": "alive"}
        address = server.address
        await server.stop()
        await server.stop()
        assert server.address is None
        async with httpx.AsyncClient(trust_env=False) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(f"{address}/health/live")


@pytest.mark.asyncio
async def test_a_server_starts_once(local_cpu_backend: LocalCPUBackend) -> None:
    async with ConnectorManager(NO_STORE, None, local_cpu_backend) as manager:
        async with server_of(manager) as server:
            with pytest.raises(ServerStateError, match="started before"):
                await server.start()
        with pytest.raises(ServerStateError, match="make another one"):
            await server.start()


@pytest.mark.asyncio
async def test_an_occupied_port_is_an_error_that_names_it_and_leaves_nothing_behind(
    local_cpu_backend: LocalCPUBackend,
) -> None:
    async with ConnectorManager(NO_STORE, None, local_cpu_backend) as manager:
        with socket.create_server(("127.0.0.1", 0)) as occupant:
            port = occupant.getsockname()[1]
            for settings in ({"port": port}, {"metrics_port": port}, {"port": port, "thread": True}):
                server = server_of(manager, **settings)
                with pytest.raises(ServerBindError, match=f"127.0.0.1:{port}: another program listens there") as failed:
                    await server.start()
                assert isinstance(failed.value, OSError)
                assert server.address is None
                await server.stop()


@pytest.mark.asyncio
async def test_a_foreign_address_is_an_error_that_says_so(local_cpu_backend: LocalCPUBackend) -> None:
    async with ConnectorManager(NO_STORE, None, local_cpu_backend) as manager:
        with pytest.raises(ServerBindError, match="this machine does not have that address"):
            await server_of(manager, host="203.0.113.7", token="x" * 16).start()


@pytest.mark.asyncio
async def test_a_unix_socket_is_its_owners_alone_and_gone_afterwards(
    local_cpu_backend: LocalCPUBackend, tmp_path: Path
) -> None:
    path = tmp_path / "api.sock"
    async with ConnectorManager(NO_STORE, None, local_cpu_backend) as manager:
        async with server_of(manager, unix_socket=path) as server:
            assert server.address == f"unix:{path}"
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            async with client_of(server) as client:
                assert (await client.get("/version")).status_code == 200
        assert not path.exists()


@pytest.mark.asyncio
async def test_what_is_at_a_unix_sockets_path_is_never_removed(
    local_cpu_backend: LocalCPUBackend, tmp_path: Path
) -> None:
    path = tmp_path / "api.sock"
    async with ConnectorManager(NO_STORE, None, local_cpu_backend) as manager:
        path.write_text("mine")
        with pytest.raises(ServerBindError, match="a file that is not a socket is there"):
            await server_of(manager, unix_socket=path).start()
        assert path.read_text() == "mine"
        path.unlink()
        async with server_of(manager, unix_socket=path) as server:
            with pytest.raises(ServerBindError, match="another program listens there"):
                await server_of(manager, unix_socket=path).start()
            async with client_of(server) as client:
                assert (await client.get("/version")).status_code == 200
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))
        with pytest.raises(ServerBindError, match="nobody listens on, left behind by a server that was killed"):
            await server_of(manager, unix_socket=path).start()
        assert path.is_socket()
        with pytest.raises(ServerBindError, match="there is no folder"):
            await server_of(manager, unix_socket=tmp_path / "nowhere" / "api.sock").start()
        with pytest.raises(ServerBindError, match="too long"):
            await server_of(manager, unix_socket=tmp_path / ("a" * 200)).start()


@pytest.mark.asyncio
async def test_a_socket_that_somebody_put_in_its_place_is_left_alone(
    local_cpu_backend: LocalCPUBackend, tmp_path: Path
) -> None:
    path = tmp_path / "api.sock"
    async with ConnectorManager(NO_STORE, None, local_cpu_backend) as manager:
        async with server_of(manager, unix_socket=path):
            path.unlink()
            path.write_text("another's")
        assert path.read_text() == "another's"


@pytest.mark.asyncio
async def test_several_servers_live_in_one_process(local_cpu_backend: LocalCPUBackend, tmp_path: Path) -> None:
    async with ConnectorManager(NO_STORE, None, local_cpu_backend) as one, ConnectorManager("memory://b") as two:
        one.create_connector()
        two.create_connector()
        two.create_connector()
        async with (
            server_of(one) as first,
            server_of(two, thread=True) as second,
            server_of(one, unix_socket=tmp_path / "s") as third,
        ):
            counts = []
            for server in (first, second, third):
                async with client_of(server) as client:
                    counts.append(len((await client.get("/vllm/connectors")).json()["connectors"]))
            assert counts == [1, 2, 1]


@pytest.mark.parametrize("thread", [False, True])
@pytest.mark.asyncio
async def test_a_request_under_way_may_finish_while_it_stops(local_cpu_backend: LocalCPUBackend, thread: bool) -> None:
    began = threading.Event()
    async with ConnectorManager(NO_STORE, None, local_cpu_backend) as manager:
        server = server_of(manager, slow_router(began, 0.3), thread=thread)
        await server.start()
        async with client_of(server) as client:
            asking = asyncio.create_task(client.get("/slow"))
            await anyio.to_thread.run_sync(began.wait)
            await server.stop()
            assert (await asking).json() == "done"


@pytest.mark.parametrize("thread", [False, True])
@pytest.mark.asyncio
async def test_a_request_that_never_ends_is_dropped_when_the_grace_period_is_over(
    local_cpu_backend: LocalCPUBackend, thread: bool
) -> None:
    began = threading.Event()
    async with ConnectorManager(NO_STORE, None, local_cpu_backend) as manager:
        server = server_of(manager, slow_router(began, 3600), thread=thread, stop_grace=0.2)
        await server.start()
        async with client_of(server) as client:
            asking = asyncio.create_task(client.get("/slow", timeout=30))
            await anyio.to_thread.run_sync(began.wait)
            started = time.monotonic()
            await server.stop()
            assert time.monotonic() - started < 5
            with pytest.raises(httpx.TransportError):
                await asking


@pytest.mark.asyncio
async def test_a_caller_cancelled_while_stopping_leaves_nothing_running(
    local_cpu_backend: LocalCPUBackend,
) -> None:
    async with ConnectorManager(NO_STORE, None, local_cpu_backend) as manager:
        server = server_of(manager)
        await server.start()
        address = server.address
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0)
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        async with httpx.AsyncClient(trust_env=False) as client:
            with anyio.fail_after(5):
                while True:
                    try:
                        await client.get(f"{address}/health/live")
                    except httpx.TransportError:
                        break
                    await asyncio.sleep(0.01)


@pytest.mark.asyncio
async def test_an_application_that_does_not_start_is_an_error(local_cpu_backend: LocalCPUBackend) -> None:
    async with ConnectorManager(NO_STORE, None, local_cpu_backend) as manager:
        server = server_of(manager)

        def fail() -> None:
            raise RuntimeError("no")

        server.app.router.on_startup.append(fail)
        with pytest.raises(ServerStateError, match="start-up failed"):
            await server.start()
        assert server.address is None


def test_a_thread_without_a_loop_starts_and_stops_a_server(local_cpu_backend: LocalCPUBackend) -> None:
    with ConnectorManager(NO_STORE, None, local_cpu_backend) as manager:
        connector = manager.create_connector()
        assert not connector.sync.exists("a")
        with pytest.raises(InvalidArgumentError, match=r"config\.thread"):
            server_of(manager).start_sync()
        with server_of(manager, thread=True) as server:
            assert server.address is not None
            answer = httpx.get(f"{server.address}/vllm/connectors/memory-1", trust_env=False)
            assert answer.json()["statistics"]["exists"]["calls"] == 1
        assert "lmcache-connect api" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"host": "0.0.0.0"}, "token"),
        ({"host": "::"}, "token"),
        ({"host": "a-name.example"}, "token"),
        ({"metrics_port": 0, "metrics_host": "0.0.0.0"}, "metrics_token"),
        ({"token": "short"}, "token"),
        ({"token": "with a space in the middle"}, "token"),
        ({"port": 70000}, "port"),
        ({"hosts": ["a"]}, "hosts"),
        ({"token_file": "/nowhere/token"}, "token_file"),
    ],
)
def test_a_server_that_would_let_anybody_in_or_cannot_be_is_refused(settings: dict[str, Any], setting: str) -> None:
    with pytest.raises(InvalidConfigError) as refused:
        APIServerConfig.load(**settings)
    assert refused.value.setting == setting
    assert "short" not in str(refused.value)


def test_another_address_than_loopback_is_refused_also_where_the_settings_were_not_loaded(
    local_cpu_backend: LocalCPUBackend,
) -> None:
    with ConnectorManager(NO_STORE, None, local_cpu_backend) as manager:
        with pytest.raises(InvalidConfigError, match=r"0\.0\.0\.0 can be reached from other machines"):
            InternalAPIServer(manager, APIServerConfig(host="0.0.0.0"))


def test_the_token_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("0123456789abcdef\n")
    config = APIServerConfig.load(token_file=file, host="0.0.0.0")
    assert config.token is not None
    assert config.token.get_secret_value() == "0123456789abcdef"
    assert config.protects_reads
    file.write_text("short\n")
    with pytest.raises(InvalidConfigError, match="5 characters"):
        APIServerConfig.load(token_file=file)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMCACHE_CONNECT_API_PORT", "1234")
    monkeypatch.setenv("LMCACHE_CONNECT_API_TOKEN", "0123456789abcdef")
    monkeypatch.setenv("LMCACHE_CONNECT_API_ALLOWED_HOSTS", '["a.example"]')
    config = APIServerConfig.load()
    assert (config.port, config.allowed_hosts) == (1234, ("a.example",))
    assert "0123456789abcdef" not in repr(config)
    assert APIServerConfig.load(port=5).port == 5


def test_the_server_listens_on_an_event_loop_of_uvloop_too(tmp_path: Path) -> None:
    program = """
import asyncio, sys, httpx, uvloop
from lmcache_connect import ConnectorManager
from lmcache_connect.internal_api_server import APIServerConfig, InternalAPIServer
async def main():
    async with ConnectorManager("memory://x") as manager:
        async with InternalAPIServer(manager, APIServerConfig.load(unix_socket=sys.argv[1])):
            transport = httpx.AsyncHTTPTransport(uds=sys.argv[1])
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                print((await client.get("/health/live")).text)
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
"""
    pytest.importorskip("uvloop")
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "s")], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.stdout == '{"status":"alive"}\n', done.stderr


@pytest.mark.asyncio
async def test_a_fork_does_not_stop_its_parents_server(local_cpu_backend: LocalCPUBackend) -> None:
    async with serving(NO_STORE, local_cpu_backend, ConnectorConfig.load()) as served:
        child = os.fork()
        if child == 0:
            try:
                asyncio.run(asyncio.wait_for(_stop_in_child(served.server), 5))
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        await anyio.to_thread.run_sync(os.waitpid, child, 0)
        assert (await served.client.get("/health/live")).status_code == 200


async def _stop_in_child(server: InternalAPIServer) -> None:
    await server.stop()


def test_an_application_of_ones_own_shows_a_manager_that_is_attached(local_cpu_backend: LocalCPUBackend) -> None:
    from lmcache_connect.internal_api_server.api_registry import APIRegistry
    from lmcache_connect.internal_api_server.state import attach

    async def ask() -> tuple[httpx.Response, httpx.Response]:
        app = FastAPI()
        APIRegistry(app).register_all_apis()
        async with ConnectorManager(NO_STORE, None, local_cpu_backend) as manager:
            manager.create_connector()
            attach(app, manager)
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://x") as client:
                return await client.get("/health/ready"), await client.get("/vllm/connectors/none")

    ready, missing = asyncio.run(ask())
    assert ready.json()["status"] == "ready"
    assert missing.status_code == 404
    assert missing.json()["problem"] == "UnknownConnectorError"
