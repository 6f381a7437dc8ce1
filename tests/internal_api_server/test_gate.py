"""Who may do what: hosts, other sites, the token, the size and the time of a request."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import anyio
import httpx
import pytest
import pytest_asyncio
from fastapi import APIRouter

from lmcache_connect import ConnectorManager, LocalCPUBackend
from lmcache_connect.internal_api_server import APIServerConfig, InternalAPIServer

from .conftest import Served, client_of, serving

TOKEN: Final = "0123456789-a-token"
POST: Final = b"POST /vllm/lookup HTTP/1.1\r\nhost: localhost\r\n"
BEARER: Final = {"authorization": f"Bearer {TOKEN}"}


async def raw(server: InternalAPIServer, request: bytes) -> bytes:
    """What the server answers to these bytes until it closes."""
    assert server.address is not None
    host, _, port = server.address.removeprefix("http://").rpartition(":")
    async with await anyio.connect_tcp(host, int(port)) as stream:
        await stream.send(request)
        found = b""
        with anyio.move_on_after(5):
            try:
                while True:
                    found += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass
        return found


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:80",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "",
        "127.0.0.1@evil",
        "[::1",
    ],
)
@pytest.mark.asyncio
async def test_a_request_for_another_host_is_refused(served: Served, host: str) -> None:
    answer = await served.client.get("/version", headers={"host": host})
    assert answer.status_code == 421
    assert answer.json()["problem"] == "wrong_host"
    assert "allowed_hosts" in answer.json()["detail"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:99", "127.0.0.1", "127.0.0.1:1", "[::1]:5", "localhost."])
@pytest.mark.asyncio
async def test_a_request_for_an_address_or_localhost_is_answered(served: Served, host: str) -> None:
    assert (await served.client.get("/version", headers={"host": host})).status_code == 200


@pytest.mark.asyncio
async def test_a_request_with_no_host_or_two_is_refused(served: Served) -> None:
    assert (
        b" 400 " in (await raw(served.server, b"GET /version HTTP/1.1\r\nconnection: close\r\n\r\n")).split(b"\r\n")[0]
    )
    two = b"GET /version HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\nconnection: close\r\n\r\n"
    assert (await raw(served.server, two)).split(b"\r\n")[0].split()[1] in {b"400", b"421"}
    none = b"GET /version HTTP/1.0\r\n\r\n"
    assert b" 421 " in (await raw(served.server, none)).split(b"\r\n")[0]


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
@pytest.mark.asyncio
async def test_a_check_without_a_host_is_answered(served: Served, path: str) -> None:
    for method in ("GET", "HEAD"):
        found = await raw(served.server, f"{method} {path} HTTP/1.0\r\n\r\n".encode())
        assert b" 200 " in found.split(b"\r\n")[0]
    foreign = await served.client.get(path, headers={"host": "evil.example"})
    assert foreign.status_code == 421


@pytest.mark.asyncio
async def test_head_is_answered_as_get_is_without_the_body(served: Served) -> None:
    for path in ("/health/live", "/health/ready", "/version", "/metrics", "/", "/openapi.json", "/no-such-path"):
        got = await served.client.get(path)
        head = await served.client.head(path)
        assert (head.status_code, head.content) == (got.status_code, b"")
        assert head.headers["content-type"] == got.headers["content-type"]
        assert int(head.headers["content-length"]) > 0
    assert (await served.client.head("/vllm/hot-cache/clear")).status_code == 405
    body = await raw(served.server, b"HEAD /version HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    assert body.endswith(b"\r\n\r\n")


@pytest.mark.asyncio
async def test_head_of_readiness_says_that_a_store_is_gone(local_cpu_backend: LocalCPUBackend) -> None:
    async with serving("redis://127.0.0.1:1", local_cpu_backend) as served:
        assert (await served.client.head("/health/ready")).status_code == 503


@pytest.mark.asyncio
async def test_a_name_that_is_allowed_is_answered(valkey_url: str, local_cpu_backend: LocalCPUBackend) -> None:
    async with serving(valkey_url, local_cpu_backend, allowed_hosts=["Api.example"]) as served:
        assert (await served.client.get("/version", headers={"host": "api.example:80"})).status_code == 200
        assert (await served.client.get("/version", headers={"host": "b.example"})).status_code == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
@pytest.mark.asyncio
async def test_a_page_of_another_site_changes_nothing(served: Served, headers: dict[str, str]) -> None:
    answer = await served.client.post("/vllm/connectors/redis-1/close", headers=headers)
    assert (answer.status_code, answer.json()["problem"]) == (403, "cross_site")
    assert not served.connector.is_closed


@pytest.mark.asyncio
async def test_a_page_of_this_server_may_change_what_it_shows(served: Served) -> None:
    headers = {"origin": str(served.client.base_url).rstrip("/"), "sec-fetch-site": "same-origin"}
    answer = await served.client.put("/vllm/connectors/redis-1/bypass", json={"enabled": True}, headers=headers)
    assert answer.status_code == 200
    served.connector.bypass = False


WRITES: Final = [
    ("POST", "/vllm/connectors/redis-1/close"),
    ("POST", "/vllm/connectors/redis-1/recreate"),
    ("PUT", "/vllm/connectors/redis-1/bypass"),
    ("PUT", "/vllm/hot-cache"),
    ("POST", "/vllm/hot-cache/clear"),
    ("POST", "/vllm/cache/clear"),
    ("PUT", "/log-levels/lmcache_connect"),
]


WRONG_TOKENS: Final = [
    {},
    {"authorization": "Bearer 0123456789-a-tokem"},
    {"authorization": f"Bearer {TOKEN}x"},
    {"authorization": TOKEN},
    {"authorization": f"Basic {TOKEN}"},
    {"authorization": "Bearer"},
    {"authorization": b"Bearer \xff\xfe"},
]


@pytest.mark.asyncio
async def test_what_changes_something_needs_the_token(token_server: Served) -> None:
    for method, path in WRITES:
        for headers in WRONG_TOKENS:
            answer = await token_server.client.request(method, path, headers=headers)  # type: ignore[arg-type]
            assert answer.status_code == 401
            assert answer.json()["problem"] == "unauthorized"
            assert answer.headers["www-authenticate"] == "Bearer"
    assert not token_server.connector.is_closed


@pytest_asyncio.fixture
async def token_server(valkey_url: str, local_cpu_backend: LocalCPUBackend) -> AsyncIterator[Served]:
    async with serving(valkey_url, local_cpu_backend, token=TOKEN) as served:
        yield served


@pytest.mark.asyncio
async def test_the_token_opens_what_needs_it_and_reading_on_loopback_does_not(token_server: Served) -> None:
    client = token_server.client
    assert (await client.post("/vllm/hot-cache/clear", headers=BEARER)).status_code == 200
    assert (
        await client.post("/vllm/hot-cache/clear", headers={"authorization": f"bearer  {TOKEN}"})
    ).status_code == 200
    assert (await client.get("/vllm/connectors")).status_code == 200


def read_paths(server: InternalAPIServer) -> list[str]:
    paths: dict[str, Any] = server.app.openapi()["paths"]
    return [path.replace("{name}", "redis-1") for path, methods in paths.items() if "get" in methods]


@pytest.mark.asyncio
async def test_reading_needs_the_token_too_where_all_is_protected(
    valkey_url: str, local_cpu_backend: LocalCPUBackend
) -> None:
    async with serving(valkey_url, local_cpu_backend, token=TOKEN, protect="all") as served:
        open_paths = {"/", "/health/live", "/health/ready"}
        for path in ["/", "/openapi.json", "/docs", "/no-such-path", *read_paths(served.server)]:
            refused = (await served.client.get(path)).status_code
            answered = (await served.client.get(path, headers=BEARER, params={"key": "a"})).status_code
            assert (refused == 401) is (path not in open_paths), path
            assert answered in ({404} if path in {"/docs", "/no-such-path"} else {200}), path


@pytest.mark.asyncio
async def test_every_address_needs_the_token_for_everything(
    valkey_url: str, local_cpu_backend: LocalCPUBackend
) -> None:
    async with ConnectorManager(valkey_url, None, local_cpu_backend) as manager:
        config = APIServerConfig.load(host="0.0.0.0", token=TOKEN)
        async with InternalAPIServer(manager, config) as server:
            port = int((server.address or "").rpartition(":")[2])
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                assert (await client.get("/vllm/connectors")).status_code == 401
                assert (await client.get("/vllm/connectors", headers=BEARER)).status_code == 200
                assert (await client.get("/health/ready")).status_code == 200


@pytest.mark.asyncio
async def test_metrics_can_be_bound_apart_and_open_nothing_else(
    valkey_url: str, local_cpu_backend: LocalCPUBackend
) -> None:
    async with serving(valkey_url, local_cpu_backend, token=TOKEN, protect="all", metrics_port=0) as served:
        assert served.server.metrics_address is not None
        async with httpx.AsyncClient(base_url=served.server.metrics_address, trust_env=False) as scraper:
            answer = await scraper.get("/metrics")
            assert answer.status_code == 200
            assert "lmcache_connect_breaker_state" in answer.text
            for path in ["/", "/status", "/openapi.json", *read_paths(served.server)]:
                if path != "/metrics":
                    assert (await scraper.get(path)).status_code == 404, path
            for method, path in WRITES:
                assert (await scraper.request(method, path, headers=BEARER)).status_code == 404, path


@pytest.mark.asyncio
async def test_metrics_that_are_bound_apart_may_want_a_token_of_their_own(
    valkey_url: str, local_cpu_backend: LocalCPUBackend
) -> None:
    other = "another-token-of-16"
    async with serving(valkey_url, local_cpu_backend, token=TOKEN, metrics_port=0, metrics_token=other) as served:
        async with httpx.AsyncClient(base_url=served.server.metrics_address or "", trust_env=False) as scraper:
            assert (await scraper.get("/metrics")).status_code == 401
            assert (await scraper.get("/metrics", headers=BEARER)).status_code == 401
            assert (await scraper.get("/metrics", headers={"authorization": f"Bearer {other}"})).status_code == 200


@pytest.mark.asyncio
async def test_an_oversized_body_is_refused_by_its_length_and_by_what_comes(
    valkey_url: str, local_cpu_backend: LocalCPUBackend
) -> None:
    async with serving(valkey_url, local_cpu_backend, max_body_bytes=1024) as served:
        told = await served.client.post("/vllm/lookup", content=b"x" * 2000)
        assert (told.status_code, told.json()["problem"]) == (413, "body_too_large")

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(50):
                yield b"x" * 100

        untold = await served.client.post("/vllm/lookup", content=pieces())
        assert (untold.status_code, untold.json()["problem"]) == (413, "body_too_large")
        lied = await raw(
            served.server,
            POST + b"content-length: 1099511627776\r\nconnection: close\r\n\r\n",
        )
        assert b" 413 " in lied.split(b"\r\n")[0]
        assert (await served.client.get("/version")).status_code == 200


@pytest.mark.asyncio
async def test_a_request_whose_body_never_comes_is_ended(valkey_url: str, local_cpu_backend: LocalCPUBackend) -> None:
    async with serving(valkey_url, local_cpu_backend, request_timeout=0.2) as served:
        found = await raw(
            served.server,
            POST + b"content-type: application/json\r\ncontent-length: 100\r\n\r\n{",
        )
        assert b" 504 " in found.split(b"\r\n")[0]


@pytest.mark.asyncio
async def test_what_no_route_expects_is_answered_without_its_message(
    valkey_url: str, local_cpu_backend: LocalCPUBackend, caplog: pytest.LogCaptureFixture
) -> None:
    router = APIRouter()

    @router.get("/broken")
    async def broken() -> str:
        raise RuntimeError("the password is hunter2")

    async with ConnectorManager(valkey_url, None, local_cpu_backend) as manager:
        async with InternalAPIServer(manager, APIServerConfig.load(), routers=(router,)) as server:
            async with client_of(server) as client:
                answer = await client.get("/broken")
                assert answer.status_code == 500
                assert answer.json() == {
                    "problem": "internal_error",
                    "detail": "a route failed with RuntimeError; the log says where",
                }
                assert (await client.get("/version")).status_code == 200
    assert "hunter2" not in answer.text + caplog.text
    assert "test_gate.py" in caplog.text


@pytest.mark.asyncio
async def test_every_answer_forbids_browsers_what_they_need_not_do(served: Served) -> None:
    for path in ("/version", "/no-such-path", "/"):
        headers = (await served.client.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert "unsafe" not in headers["content-security-policy"]
        assert "server" not in headers
        assert "access-control-allow-origin" not in headers


@pytest.mark.asyncio
async def test_no_route_runs_code_or_takes_a_url_or_a_module(served: Served) -> None:
    document = served.server.app.openapi()
    names = {name for schema in document["components"]["schemas"].values() for name in schema.get("properties", {})} | {
        parameter["name"]
        for methods in document["paths"].values()
        for operation in methods.values()
        for parameter in operation.get("parameters", [])
    }
    taken = {
        name
        for methods in document["paths"].values()
        for method, operation in methods.items()
        if "requestBody" in operation
        for reference in [str(operation["requestBody"])]
        for schema_name, schema in document["components"]["schemas"].items()
        if schema_name in reference
        for name in schema.get("properties", {})
    }
    assert not taken & {"url", "module", "module_path", "class_name", "script", "code", "command", "env"}
    assert not names & {"script", "environment", "env"}
    for path in document["paths"]:
        assert not {"env", "run_script", "run", "exec", "import"} & set(path.split("/"))
