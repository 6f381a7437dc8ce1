"""Answers to a get that are not a record: pages of proxies, error documents, other programs' objects."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Final

import pytest
import pytest_asyncio

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector, StoreError
from lmcache_connect.testing import FaultyS3Server
from lmcache_connect.testing.servers.s3 import BUCKET, RcloneServer
from lmcache_connect.testing.servers.s3_faults import Do, Fault, Raw, Reply, Request

from ...testing.conformance.raw_s3 import client_of

pytestmark = pytest.mark.in_turn

CONFIG: Final = ConnectorConfig.load(operation_timeout=5, breaker_failures=1000, close_grace=0.5)
KEYS: Final = [f"k{number}" for number in range(20)]

_HTML: Final = b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body><center>nginx</center></body></html>"
_ERROR: Final = b'<?xml version="1.0"?><Error><Code>InternalError</Code><Message>m</Message></Error>'


def _page(body: bytes, content_type: str = "text/html", status: str = "200 OK") -> Fault:
    head = f"HTTP/1.1 {status}\r\nServer: nginx/1.22.1\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}"
    return Raw(f"{head}\r\nConnection: keep-alive\r\n\r\n".encode() + body)


def _error_behind(lead: bytes) -> Fault:
    return _page(lead + _ERROR, "application/xml")


PAGES: Final = {
    "html": _page(_HTML),
    "long html": _page(_HTML * 4000),
    "json": _page(b'{"status": "maintenance"}', "application/json"),
    "text": _page(b"ok\n", "text/plain"),
    "empty": _page(b""),
    "no content": _page(b"", status="204 No Content"),
    "chunked html": Raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n<html>\r\n0\r\n\r\n"),
    "without a length": Raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + _HTML),
    "error": _error_behind(b""),
    "error behind a byte order mark": _error_behind(b"\xef\xbb\xbf"),
    "error behind white space": _error_behind(b" \r\n\r\n  "),
    "range not satisfiable": _page(_HTML, status="416 Requested Range Not Satisfiable"),
    "haproxy without a server": Raw(
        b"HTTP/1.0 503 Service Unavailable\r\nCache-Control: no-cache\r\nConnection: close\r\n"
        b"Content-Type: text/html\r\n\r\n<html><body><h1>503 Service Unavailable</h1></body></html>\n"
    ),
}


@pytest.fixture
def server() -> Iterator[FaultyS3Server]:
    with FaultyS3Server() as made:
        yield made


@pytest_asyncio.fixture(params=["thread", "loop"])
async def connector(
    server: FaultyS3Server, request: pytest.FixtureRequest, local_cpu_backend: LocalCPUBackend
) -> AsyncIterator[ManagedConnector]:
    url = server.url("p", io=request.param, timeout=5, attempts=2)
    async with ConnectorManager(url, None, local_cpu_backend, CONFIG) as manager:
        yield manager.create_connector()


async def put(connector: ManagedConnector, *keys: str) -> None:
    for key in keys:
        chunk = connector.context.local_cpu_backend.allocate((1000,), "uint8")
        assert chunk is not None
        with chunk:
            chunk.byte_array[:] = key.encode().ljust(1000, b".")
            await connector.put(key, chunk)


async def hits(connector: ManagedConnector, *keys: str) -> list[bool]:
    """Which of the keys a batch brings. What it brings is compared."""
    found = await connector.batched_get(keys)
    for key, obj in zip(keys, found, strict=True):
        if obj is not None:
            with obj:
                assert bytes(obj.byte_array) == key.encode().ljust(1000, b".")
    return [obj is not None for obj in found]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.asyncio
async def test_one_page_in_place_of_an_object_costs_one_more_request_and_no_hit(
    server: FaultyS3Server, connector: ManagedConnector, page: str
) -> None:
    await put(connector, *KEYS)
    server.plan("GET", PAGES[page])
    assert await hits(connector, *KEYS) == [True] * 20
    assert len(server.asked("GET")) <= 20 + 2
    server.plan("GET", PAGES[page])
    assert await hits(connector, "k0") == [True]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.asyncio
async def test_a_page_that_stays_is_a_failure_of_the_store_and_leaves_every_object(
    server: FaultyS3Server, connector: ManagedConnector, page: str
) -> None:
    await put(connector, *KEYS)
    server.plan("GET", PAGES[page], times=None)
    with pytest.raises(StoreError):
        await connector.batched_get(KEYS)
    with pytest.raises(StoreError):
        await connector.get("k0")
    assert len(server.objects) == 20
    assert not server.asked("DELETE")
    assert not server.asked("POST")
    server.plan("GET", Fault(), times=None)
    assert await hits(connector, *KEYS) == [True] * 20


@pytest.mark.asyncio
async def test_a_page_that_stays_is_a_miss_for_an_engine(
    server: FaultyS3Server, local_cpu_backend: LocalCPUBackend
) -> None:
    async with ConnectorManager(server.url("p", errors="miss"), None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        await put(connector, *KEYS)
        server.plan("GET", PAGES["html"], times=None)
        assert await hits(connector, *KEYS) == [False] * 20
        assert len(server.objects) == 20
        assert sum(connector.statistics()["batched_get"].misses.values()) == 20


@pytest.mark.parametrize("nothing", [b"", b"{}", b"hello", b"KVC", b"<html>", b"x" * 100_000])
@pytest.mark.asyncio
async def test_another_programs_object_is_a_miss_in_its_own_slot_and_stays(
    server: FaultyS3Server, connector: ManagedConnector, nothing: bytes
) -> None:
    await put(connector, "k0", "k1", "k2")
    server.objects["p/k1"] = nothing
    assert await hits(connector, "k0", "k1", "k2") == [True, False, True]
    assert connector.statistics()["batched_get"].misses == {"corrupt:magic": 1}
    assert await connector.get("k1") is None
    assert server.objects["p/k1"] == nothing
    await put(connector, "k1")
    assert await hits(connector, "k1") == [True]


@pytest.mark.asyncio
async def test_another_programs_object_is_a_miss_also_where_nothing_is_asked_again(
    server: FaultyS3Server, local_cpu_backend: LocalCPUBackend
) -> None:
    async with ConnectorManager(server.url("p", attempts=1), None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        await put(connector, "k0", "k1")
        for nothing in (b"", b"hello"):
            server.objects["p/k1"] = nothing
            assert await hits(connector, "k0", "k1") == [True, False]


@pytest.mark.asyncio
async def test_an_archived_object_is_a_miss_in_its_own_slot(
    server: FaultyS3Server, connector: ManagedConnector
) -> None:
    await put(connector, "k0", "k1")

    def archive(reply: Reply, request: Request) -> None:
        if request.name == "p/k1":
            reply.status, reply.body = 403, b"<Error><Code>InvalidObjectState</Code></Error>"

    server.plan("GET", Do(archive), times=None)
    assert await hits(connector, "k0", "k1") == [True, False]
    assert connector.statistics()["batched_get"].misses == {"corrupt:archived": 1}


@pytest.mark.parametrize("nothing", [b"", b"hello", b"<html>", b"x" * 100_000])
@pytest.mark.asyncio
async def test_rclones_object_of_another_program_is_a_miss_and_stays(
    rclone_server: RcloneServer, local_cpu_backend: LocalCPUBackend, nothing: bytes
) -> None:
    async with ConnectorManager(rclone_server.url("foreign"), None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        await put(connector, "k0", "k1")
        client_of(rclone_server).put_object(Bucket=BUCKET, Key="foreign/k1", Body=nothing)
        assert await hits(connector, "k0", "k1") == [True, False]
        assert client_of(rclone_server).get_object(Bucket=BUCKET, Key="foreign/k1")["Body"].read() == nothing
        await put(connector, "k1")
        assert await hits(connector, "k0", "k1") == [True, True]
