"""Multipart uploads: an object that is stored is a put that succeeds, and an upload that failed is given up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

import anyio
import pytest
import pytest_asyncio

from lmcache_connect import (
    AuthenticationError,
    ConnectorConfig,
    ConnectorManager,
    LocalCPUBackend,
    ManagedConnector,
    StoreError,
)
from lmcache_connect.testing import FaultyS3Server
from lmcache_connect.testing.servers.s3 import BUCKET, MotoServer, RcloneServer
from lmcache_connect.testing.servers.s3_faults import Do, Fault, Hangup, Header, Refuse, Reply, Request

from ...testing.conformance.raw_s3 import client_of

NBYTES: Final = (11 << 20) + 5
PARTS: Final[dict[str, Any]] = {"multipart_threshold": 5 << 20, "part_size": 5 << 20}
CONFIG: Final = ConnectorConfig.load(operation_timeout=5, breaker_failures=1000)


@pytest.fixture
def server() -> Iterator[FaultyS3Server]:
    with FaultyS3Server() as made:
        yield made


@pytest_asyncio.fixture(params=[True, False], ids=["checksum", "no checksum"])
async def connector(
    server: FaultyS3Server, request: pytest.FixtureRequest, local_cpu_backend: LocalCPUBackend
) -> AsyncIterator[ManagedConnector]:
    url = server.url("p", checksum=request.param, **PARTS)
    async with ConnectorManager(url, None, local_cpu_backend, CONFIG) as manager:
        yield manager.create_connector()


async def put(connector: ManagedConnector, seed: int = 1) -> None:
    chunk = connector.context.local_cpu_backend.allocate((NBYTES,), "uint8")
    assert chunk is not None
    with chunk:
        chunk.byte_array[:] = content(seed)
        await connector.put("k", chunk)


def content(seed: int) -> bytes:
    return (bytes([seed]) + b"kv-cache") * (NBYTES // 9) + b"x" * (NBYTES % 9)


async def holds(connector: ManagedConnector, seed: int = 1) -> bool:
    obj = await connector.get("k")
    if obj is None:
        return False
    with obj:
        return bytes(obj.byte_array) == content(seed)


def is_completion(request: Request) -> bool:
    return "uploadId" in request.query


def on_completion(change: Callable[[Reply], None]) -> Fault:
    def edit(reply: Reply, request: Request) -> None:
        if is_completion(request):
            change(reply)

    return Do(edit)


def answers(body: bytes) -> Callable[[Reply], None]:
    def change(reply: Reply) -> None:
        reply.body = body

    return change


@pytest.mark.parametrize(
    "body",
    [
        b"<CompleteMultipartUploadResult><ETag></ETag></CompleteMultipartUploadResult>",
        b'<CompleteMultipartUploadResponse><ETag>"x"</ETag></CompleteMultipartUploadResponse>',
        b'\n  \r\n<?xml version="1.0"?><CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>',
        b'\xef\xbb\xbf<?xml version="1.0"?><Other/>',
        b"",
        b"<html>ok</html>",
    ],
)
@pytest.mark.asyncio
async def test_an_upload_whose_object_is_stored_is_a_put_whatever_its_completion_looks_like(
    server: FaultyS3Server, connector: ManagedConnector, body: bytes
) -> None:
    server.plan("POST", on_completion(answers(body)), times=2)
    await put(connector)
    assert len(server.asked("PUT")) == 3
    assert not server.asked("DELETE")
    assert await holds(connector)


@pytest.mark.asyncio
async def test_a_completion_whose_answer_is_lost_is_a_put_and_nothing_is_sent_again(
    server: FaultyS3Server, connector: ManagedConnector
) -> None:
    class LoseCompletion(Hangup):
        def send(self, sock: Any, reply: Reply, stop: Any) -> bool:
            if b"Complete" in reply.body:
                return False
            return Fault().send(sock, reply, stop)

    server.plan("POST", LoseCompletion(), times=2)
    await put(connector)
    assert [is_completion(request) for request in server.asked("POST")] == [False, True, True]
    assert len(server.asked("PUT")) == 3
    assert await holds(connector)


@pytest.mark.asyncio
async def test_a_page_in_place_of_a_completion_is_no_put(
    server: FaultyS3Server, local_cpu_backend: LocalCPUBackend
) -> None:
    async with ConnectorManager(server.url("p", **PARTS), None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        await put(connector, seed=1)
        before = server.objects["p/k"]
        server.requests.clear()

        def page(reply: Reply) -> None:
            server.objects["p/k"] = before  # the store has never seen the request
            reply.body = b"<html>maintenance</html>"

        server.plan("POST", on_completion(page), times=None)
        with pytest.raises(StoreError):
            await put(connector, seed=2)
        assert len(server.asked("PUT")) == 3, "the chunk was uploaded more than once"
        assert server.uploads == 0
        server.plan("POST", Fault(), times=None)
        assert await holds(connector, seed=1)


@pytest.mark.asyncio
async def test_a_chunk_is_uploaded_once_also_where_its_completion_fails_again_and_again(
    server: FaultyS3Server, connector: ManagedConnector
) -> None:
    def fail(reply: Reply) -> None:
        server.objects.clear()
        reply.status, reply.body = 500, b"<Error><Code>InternalError</Code></Error>"

    server.plan("POST", on_completion(fail), times=None)
    with pytest.raises(StoreError):
        await put(connector)
    assert len(server.asked("PUT")) == 3
    assert len([request for request in server.asked("POST") if not is_completion(request)]) == 1
    assert server.uploads == 0


@pytest.mark.parametrize("etag", ["unquoted", 'W/"weak"'])
@pytest.mark.asyncio
async def test_a_part_is_named_as_the_store_has_named_it(
    server: FaultyS3Server, connector: ManagedConnector, etag: str
) -> None:
    server.plan("PUT", Header("ETag", etag), times=3)
    await put(connector)
    completion = next(request for request in server.asked("POST") if is_completion(request))
    assert completion.body.count(f"<ETag>{etag}</ETag>".encode()) == 3


@pytest.mark.asyncio
async def test_a_put_that_is_answered_by_a_page_is_no_put_unless_the_object_is_there(
    server: FaultyS3Server, local_cpu_backend: LocalCPUBackend
) -> None:
    url = server.url("p", attempts=2)
    async with ConnectorManager(url, None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()

        def odd(reply: Reply, request: Request) -> None:
            reply.headers.pop("ETag")
            reply.body = b"<html>stored</html>"

        server.plan("PUT", Do(odd))
        await put(connector)
        assert len(server.asked("PUT")) == 1
        assert await holds(connector)

        def page(reply: Reply, request: Request) -> None:
            server.objects.clear()
            reply.headers.pop("ETag")
            reply.body = b"<html>maintenance</html>"

        server.plan("PUT", Do(page), times=None)
        with pytest.raises(StoreError, match="not there"):
            await put(connector)


# ------------------------------------------------------------------------------------------------------ what is left


class Hold(Fault):
    """The answer waits until `go` is set. `came` is set when the request is there."""

    def __init__(self) -> None:
        self.came = threading.Event()
        self.go = threading.Event()

    def send(self, sock: Any, reply: Reply, stop: threading.Event) -> bool:
        self.came.set()
        self.go.wait(5)
        return super().send(sock, reply, stop)


async def cancelled_put(connector: ManagedConnector, hold: Hold, *, answer: str) -> None:
    """Cancels a put while the answer to one of its requests is on its way: before it is sent, or soon afterwards."""
    putting = asyncio.create_task(put(connector))
    assert await asyncio.to_thread(hold.came.wait, 5)
    if answer == "first":
        hold.go.set()
    putting.cancel()
    await asyncio.wait((putting,))
    assert putting.cancelled()
    hold.go.set()


async def none_left(server: FaultyS3Server) -> bool:
    """Whether every upload is given up within seconds."""
    with anyio.move_on_after(3):
        while server.uploads:
            await asyncio.sleep(0.01)  # the server is in other threads
    return not server.uploads


@pytest.mark.parametrize("answer", ["first", "later"])
@pytest.mark.asyncio
async def test_a_put_that_is_cancelled_while_its_upload_begins_leaves_no_upload(
    server: FaultyS3Server, connector: ManagedConnector, answer: str
) -> None:
    hold = Hold()
    server.plan("POST", hold)
    await cancelled_put(connector, hold, answer=answer)
    assert await none_left(server)
    assert len(server.asked("DELETE")) == 1
    await put(connector)
    assert await holds(connector)


@pytest.mark.parametrize("answer", ["first", "later"])
@pytest.mark.asyncio
async def test_a_put_that_is_cancelled_while_its_parts_are_stored_leaves_no_upload(
    server: FaultyS3Server, connector: ManagedConnector, answer: str
) -> None:
    hold = Hold()
    server.plan("PUT", hold)
    await cancelled_put(connector, hold, answer=answer)
    assert await none_left(server)


@pytest.mark.asyncio
async def test_a_put_that_ends_at_its_deadline_is_not_held_up_by_giving_its_upload_up(
    server: FaultyS3Server, local_cpu_backend: LocalCPUBackend
) -> None:
    settings = CONFIG.model_copy(update={"operation_timeout": 0.5, "min_throughput": 1 << 40})
    begins, gives_up = Hold(), Hold()
    async with ConnectorManager(server.url("p", **PARTS), None, local_cpu_backend, settings) as manager:
        connector = manager.create_connector()
        server.plan("POST", begins)
        server.plan("DELETE", gives_up)
        with anyio.fail_after(0.5 + 0.5), pytest.raises(StoreError):
            await put(connector)
        begins.go.set()
        assert await asyncio.to_thread(gives_up.came.wait, 3)
        gives_up.go.set()
        assert await none_left(server)


@pytest.mark.asyncio
async def test_a_connector_that_is_closed_gives_up_its_uploads_first(
    server: FaultyS3Server, local_cpu_backend: LocalCPUBackend
) -> None:
    hold = Hold()
    settings = CONFIG.model_copy(update={"close_grace": 0.1})
    async with ConnectorManager(server.url("p", **PARTS), None, local_cpu_backend, settings) as manager:
        server.plan("POST", hold)
        putting = asyncio.create_task(put(manager.create_connector()))
        assert await asyncio.to_thread(hold.came.wait, 5)
        asyncio.get_running_loop().call_later(0.2, hold.go.set)
    assert server.uploads == 0
    with pytest.raises(Exception, match="closed"):
        await putting


@pytest.mark.asyncio
async def test_an_upload_that_is_refused_is_given_up_and_says_why(
    server: FaultyS3Server, connector: ManagedConnector
) -> None:
    server.plan("PUT", Refuse(403, "AccessDenied"), times=3)
    with pytest.raises(AuthenticationError):
        await put(connector)
    assert server.uploads == 0


# ------------------------------------------------------------------------------------------------------ real servers


@pytest.mark.asyncio
async def test_rclone_takes_a_chunk_in_parts_once(
    rclone_server: RcloneServer, local_cpu_backend: LocalCPUBackend
) -> None:
    async with ConnectorManager(rclone_server.url("parts", **PARTS), None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        for seed in (1, 2):
            await put(connector, seed)
            assert await holds(connector, seed)


@pytest.mark.asyncio
async def test_moto_keeps_no_upload_of_puts_that_were_cancelled(
    moto_server: MotoServer, local_cpu_backend: LocalCPUBackend
) -> None:
    async with ConnectorManager(moto_server.url("parts", **PARTS), None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        for moment in (0.02, 0.03, 0.04, 0.06, 0.1, 0.2):
            putting = asyncio.create_task(put(connector))
            await asyncio.sleep(moment)
            putting.cancel()
            await asyncio.wait((putting,))
        await put(connector)
        assert await holds(connector)
    assert "Uploads" not in client_of(moto_server).list_multipart_uploads(Bucket=BUCKET)
