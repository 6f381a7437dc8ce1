"""Listings name our keys whatever a server does to them, count what they cannot read, and end."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import quote
from xml.sax.saxutils import escape

import pytest

from lmcache_connect import (
    ConnectorConfig,
    ConnectorManager,
    LocalCPUBackend,
    ManagedConnector,
    OperationTimeoutError,
)
from lmcache_connect.errors import StoreProtocolError
from lmcache_connect.oversight import clear
from lmcache_connect.testing import FaultyS3Server
from lmcache_connect.testing.loop_watch import LoopWatch
from lmcache_connect.testing.servers.s3 import BUCKET, MotoServer, RcloneServer
from lmcache_connect.testing.servers.s3_faults import Do, Raw, Refuse, Reply, Request
from lmcache_connect_s3.documents import DocumentError, listed_names, page_of

from ...testing.conformance.raw_s3 import client_of

CONFIG: Final = ConnectorConfig.load(operation_timeout=10, retries=0)

KEYS: Final = ["a b", "a+b", "a%b", "a%2Bb", "a/b", "é", "漢", "&<>\"'", "~", ".hidden", "%", "+"]

PREFIXES: Final = [
    "with space",
    "with+plus",
    "with%percent",
    "with%20",
    "with%2B",
    "é漢",
    "a&b<c>",
    "\r",
    "a\nb",
    "\x01",
]


@pytest.fixture(params=["rclone", "moto"])
def server(request: pytest.FixtureRequest) -> RcloneServer | MotoServer:
    return request.getfixturevalue(f"{request.param}_server")  # type: ignore[no-any-return]


@pytest.fixture
def faulty() -> Iterator[FaultyS3Server]:
    with FaultyS3Server() as made:
        yield made


async def put(connector: ManagedConnector, *keys: str) -> None:
    with connector.context.local_cpu_backend.allocate((100,), "uint8") as chunk:  # type: ignore[union-attr]
        await connector.batched_put(keys, [chunk] * len(keys))


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.asyncio
async def test_a_prefix_of_any_characters_is_listed_and_cleared(
    server: RcloneServer | MotoServer, local_cpu_backend: LocalCPUBackend, prefix: str
) -> None:
    if isinstance(server, MotoServer) and "\n" in prefix:
        pytest.skip("moto has no route for a name with a line feed")
    prefix = f"{secrets.token_hex(4)}{prefix}"
    async with ConnectorManager(None, None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector(f"{server.url()}&prefix={quote(prefix, safe='')}")
        await put(connector, *KEYS)
        assert sorted(await connector.list()) == sorted(KEYS)
        assert [name async for name in connector.scan("a%2")] == ["a%2Bb"]
        assert await connector.batched_remove(["é", "a b"]) == [True, True]
        assert await connector.batched_exists(["é", "a b", "a+b"]) == [False, False, True]
        found = await clear(connector, "")
        assert (found.matched, found.removed, found.left_out, found.is_complete) == (
            len(KEYS) - 2,
            len(KEYS) - 2,
            0,
            True,
        )
        assert await connector.list() == []
        assert not any(await connector.batched_exists(KEYS))


@pytest.mark.asyncio
async def test_foreign_objects_under_the_prefix_stay_and_make_a_clearing_incomplete(
    server: RcloneServer | MotoServer, local_cpu_backend: LocalCPUBackend, caplog: pytest.LogCaptureFixture
) -> None:
    prefix = secrets.token_hex(4)
    foreign = ["my file", "folder/x", "a\nb", "100%", "k%2f", "%", "ü", "%0A", "%00"]
    if isinstance(server, MotoServer):
        foreign.remove("a\nb")  # it has no route for a line feed
    client = client_of(server)
    for name in foreign:
        client.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=b"theirs")
    async with ConnectorManager(server.url(prefix), None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        await put(connector, "a", "b")
        with caplog.at_level(logging.WARNING):
            assert sorted(await connector.list()) == ["a", "b"]
            found = await clear(connector, "")
        assert (found.matched, found.removed, found.left_out) == (2, 2, len(foreign))
        assert not found.is_complete
        assert await connector.list() == []
        assert caplog.text.count("names_left_out") == 1
    for name in foreign:
        assert client.get_object(Bucket=BUCKET, Key=f"{prefix}/{name}")["Body"].read() == b"theirs"


ENCODINGS: Final[dict[str, tuple[Callable[[str], str], bool]]] = {
    "form": (lambda text: text.replace("%", "%25").replace("+", "%2B").replace(" ", "+"), True),
    "path": (lambda text: text.replace("%", "%25").replace("+", "%2B").replace(" ", "%20"), True),
    "none": (lambda text: text, False),
    "form, unsaid": (lambda text: text.replace("%", "%25").replace("+", "%2B").replace(" ", "+"), False),
    "none, said": (lambda text: text, True),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("echoes", [True, False])
@pytest.mark.parametrize("prefix", ["a b/", "a%20b/", "a +/", "a%2B /"])
def test_names_are_decoded_as_the_server_encodes_them(encoding: str, echoes: bool, prefix: str) -> None:
    encode, is_encoded = ENCODINGS[encoding]
    names = [f"{prefix}{key}" for key in ("k%26", "k+1", "k%2526")]
    echoed = encode(prefix) if echoes else ""
    assert listed_names(list(map(encode, names)), prefix, is_encoded=is_encoded, echoed=echoed) == names


def _page(names: list[str], token: str | None) -> bytes:
    items = "".join(f"<Contents><Key>{escape(name)}</Key></Contents>" for name in names)
    rest = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    truncated = "true" if token else "false"
    return f"<ListBucketResult><IsTruncated>{truncated}</IsTruncated>{rest}{items}</ListBucketResult>".encode()


class Pages:
    """Answers listings with pages of its own making."""

    def __init__(self, server: FaultyS3Server) -> None:
        self.asked = 0
        server.plan("GET", Do(self._answer), times=None)

    def _answer(self, reply: Reply, request: Request) -> None:
        if "list-type" in request.query:
            self.asked += 1
            reply.body = self.page(self.asked)

    def page(self, number: int) -> bytes:
        raise NotImplementedError


class SameToken(Pages):
    def page(self, number: int) -> bytes:
        return _page([f"k{number}"], "again")


class SameNames(Pages):
    def page(self, number: int) -> bytes:
        return _page(["a", "b"], f"token-{number}")


class NoNames(Pages):
    def page(self, number: int) -> bytes:
        return _page([], f"token-{number}")


@pytest.mark.parametrize("pages", [SameToken, SameNames, NoNames])
@pytest.mark.asyncio
async def test_a_listing_that_does_not_get_on_ends_with_an_error(
    faulty: FaultyS3Server, local_cpu_backend: LocalCPUBackend, pages: type[Pages]
) -> None:
    answers = pages(faulty)
    async with ConnectorManager(faulty.url(), None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        with pytest.raises(StoreProtocolError, match="never end"):
            await connector.list()
        with pytest.raises(StoreProtocolError, match="never end"):
            async for _ in connector.scan():
                pass
    assert answers.asked < 2100


@pytest.mark.asyncio
async def test_pages_without_a_name_are_passed_over(faulty: FaultyS3Server, local_cpu_backend: LocalCPUBackend) -> None:
    class Gaps(Pages):
        def page(self, number: int) -> bytes:
            return _page([f"k{number}"] if number % 5 == 0 else [], f"token-{number}" if number < 20 else None)

    Gaps(faulty)
    async with ConnectorManager(faulty.url(), None, local_cpu_backend, CONFIG) as manager:
        assert await manager.create_connector().list() == ["k5", "k10", "k15", "k20"]


@pytest.mark.parametrize("nbytes", [1 << 20, 7 << 20])
@pytest.mark.parametrize("piece", [b"a<b/>", b"<b/>", b"<b>a</b>"])
@pytest.mark.asyncio
async def test_a_page_made_to_be_slow_is_refused_and_does_not_hold_the_loop(
    faulty: FaultyS3Server, local_cpu_backend: LocalCPUBackend, nbytes: int, piece: bytes
) -> None:
    hostile = b"<ListBucketResult><Contents><Key>" + piece * (nbytes // len(piece))
    hostile += b"</Key></Contents></ListBucketResult>"
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(hostile)
    async with ConnectorManager(faulty.url(), None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        await connector.ping()
        faulty.plan("GET", Raw(head + hostile), times=None)
        async with LoopWatch() as watch:
            with pytest.raises(StoreProtocolError, match="elements"):
                await connector.list()
        assert watch.longest < 1
    with pytest.raises(DocumentError, match="elements"):
        page_of(hostile, "")


def test_text_in_many_pieces_is_read_whole() -> None:
    text = "a&amp;" * 100_000
    document = f"<ListBucketResult><Contents><Key>{text}</Key></Contents></ListBucketResult>".encode()
    assert page_of(document, "").names == ("a&" * 100_000,)


class SlowPages(Pages):
    """Thirty pages, each of which takes the store a while."""

    def page(self, number: int) -> bytes:
        time.sleep(0.05)  # in the server's thread: it works for so long on each page
        return _page([f"k{number}"], f"token-{number}" if number < 30 else None)


@pytest.mark.asyncio
async def test_a_long_listing_may_take_longer_than_the_deadline_of_a_call_while_it_gets_on(
    faulty: FaultyS3Server, local_cpu_backend: LocalCPUBackend
) -> None:
    SlowPages(faulty)
    config = ConnectorConfig.load(operation_timeout=0.5, retries=0)
    async with ConnectorManager(faulty.url(timeout=0.5), None, local_cpu_backend, config) as manager:
        connector = manager.create_connector()
        before = time.monotonic()
        assert len(await connector.list()) == 30
        assert time.monotonic() - before > 1.4


@pytest.mark.asyncio
async def test_a_listing_that_stalls_ends_at_the_deadline_of_its_last_page(
    faulty: FaultyS3Server, local_cpu_backend: LocalCPUBackend
) -> None:
    class StallsLater(Pages):
        def page(self, number: int) -> bytes:
            if number == 3:
                released.wait(5)
            return _page([f"k{number}"], f"token-{number}")

    released = threading.Event()
    StallsLater(faulty)
    config = ConnectorConfig.load(operation_timeout=0.5, retries=0)
    async with ConnectorManager(faulty.url(timeout=0.5), None, local_cpu_backend, config) as manager:
        connector = manager.create_connector()
        before = time.monotonic()
        with pytest.raises(OperationTimeoutError, match="list did not finish"):
            await connector.list()
        assert time.monotonic() - before < 2
    released.set()


@pytest.mark.asyncio
async def test_a_look_up_of_many_keys_has_time_for_each(
    faulty: FaultyS3Server, local_cpu_backend: LocalCPUBackend
) -> None:
    def work(reply: Reply, request: Request) -> None:
        time.sleep(0.02)  # in a thread of the server: it works for so long on each

    faulty.plan("HEAD", Do(work), times=None)
    config = ConnectorConfig.load(operation_timeout=0.3, retries=0)
    async with ConnectorManager(faulty.url(timeout=0.3), None, local_cpu_backend, config) as manager:
        connector = manager.create_connector()
        assert await connector.batched_exists([f"k{number}" for number in range(400)]) == [False] * 400
        faulty.plan("POST", Refuse(501, "NotImplemented"), times=None)
        faulty.plan("DELETE", Do(work), times=None)
        assert await connector.batched_remove([f"k{number}" for number in range(400)]) == [True] * 400
