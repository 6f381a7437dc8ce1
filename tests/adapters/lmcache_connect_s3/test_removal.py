"""Removals are confirmed one by one, and work where the store cannot remove many objects with one request."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Final

import pytest
import pytest_asyncio

from lmcache_connect import AuthenticationError, ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.errors import StoreUnavailableError
from lmcache_connect.testing import FaultyS3Server
from lmcache_connect.testing.servers.s3 import RcloneServer
from lmcache_connect.testing.servers.s3_faults import Do, Fault, Raw, Refuse, Reply, Request

pytestmark = pytest.mark.asyncio

CONFIG: Final = ConnectorConfig.load(operation_timeout=10, retries=0, breaker_failures=1000)
KEYS: Final = [f"k{number}" for number in range(50)]


@pytest.fixture
def server() -> Iterator[FaultyS3Server]:
    with FaultyS3Server() as made:
        yield made


@pytest_asyncio.fixture
async def connector(server: FaultyS3Server, local_cpu_backend: LocalCPUBackend) -> AsyncIterator[ManagedConnector]:
    async with ConnectorManager(server.url("p"), None, local_cpu_backend, CONFIG) as manager:
        made = manager.create_connector()
        await put(made, *KEYS)
        yield made


async def put(connector: ManagedConnector, *keys: str) -> None:
    with connector.context.local_cpu_backend.allocate((100,), "uint8") as chunk:  # type: ignore[union-attr]
        await connector.batched_put(keys, [chunk] * len(keys))


def answer(document: str) -> Raw:
    body = document.encode()
    return Raw(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


@pytest.mark.parametrize(
    "fault",
    [
        Refuse(501, "NotImplemented"),
        Refuse(405, "MethodNotAllowed"),
        Refuse(403, "AccessDenied"),
        Refuse(400, "MissingContentMD5"),
        Refuse(400, "InvalidDigest"),
        Refuse(404, "NoSuchKey"),
        answer("<html>hello</html>"),
    ],
    ids=str,
)
async def test_where_many_objects_cannot_be_removed_at_once_each_is_removed_by_itself_from_then_on(
    server: FaultyS3Server, connector: ManagedConnector, fault: Fault
) -> None:
    server.plan("POST", fault, times=None)
    assert await connector.batched_remove(KEYS[:20]) == [True] * 20
    assert await connector.batched_remove(KEYS[20:]) == [True] * 30
    assert not server.objects
    assert len(server.asked("POST")) == 1


async def test_where_no_removal_is_allowed_the_error_says_so(
    server: FaultyS3Server, connector: ManagedConnector
) -> None:
    server.plan("POST", Refuse(403, "AccessDenied"), times=None)
    server.plan("DELETE", Refuse(403, "AccessDenied"), times=None)
    with pytest.raises(AuthenticationError, match="may do"):
        await connector.batched_remove(KEYS)


async def test_a_key_that_is_refused_costs_no_other(server: FaultyS3Server, connector: ManagedConnector) -> None:
    def refuse_one(reply: Reply, request: Request) -> None:
        if request.name == "p/k3":
            Refuse(403, "AccessDenied").edit(reply, request)

    server.plan("POST", Refuse(501, "NotImplemented"), times=None)
    server.plan("DELETE", Do(refuse_one), times=None)
    assert await connector.batched_remove(KEYS[:6]) == [True, True, True, False, True, True]


async def test_a_lost_store_ends_the_removal(server: FaultyS3Server, connector: ManagedConnector) -> None:
    server.plan("POST", Refuse(501, "NotImplemented"), times=None)
    server.plan("DELETE", Refuse(500, "InternalError"), times=None)
    with pytest.raises(StoreUnavailableError):
        await connector.batched_remove(KEYS)


@pytest.mark.parametrize(
    "document",
    [
        "<DeleteResult/>",
        "<DeleteResult><Error><Key>another</Key><Code>InternalError</Code></Error></DeleteResult>",
        "<DeleteResult><Error><Message>no key and no code</Message></Error></DeleteResult>",
        "<DeleteResult><Deleted><Key>another</Key></Deleted></DeleteResult>",
    ],
)
async def test_what_the_answer_does_not_confirm_is_not_gone_until_the_store_says_so(
    server: FaultyS3Server, connector: ManagedConnector, document: str
) -> None:
    server.plan("POST", answer(document), times=None)
    server.plan("DELETE", Refuse(403, "AccessDenied"), times=None)
    with pytest.raises(AuthenticationError):
        await connector.batched_remove(["k1", "k2"])


@pytest.mark.parametrize("code", ["<Code>InternalError</Code>", "<Code/>", ""])
async def test_a_key_whose_error_has_no_code_is_not_gone_either(
    server: FaultyS3Server, connector: ManagedConnector, code: str
) -> None:
    deleted, failed = "<Deleted><Key>p/k2</Key></Deleted>", f"<Error><Key>p/k1</Key>{code}</Error>"
    server.plan("POST", answer(f"<DeleteResult>{deleted}{failed}</DeleteResult>"), times=None)
    assert await connector.batched_remove(["k1", "k2"]) == [False, True]


@pytest.mark.parametrize("is_allowed", [True, False])
async def test_keys_that_are_denied_together_are_removed_one_by_one_where_that_is_allowed(
    server: FaultyS3Server, connector: ManagedConnector, is_allowed: bool
) -> None:
    failed = "".join(f"<Error><Key>p/{key}</Key><Code>AccessDenied</Code></Error>" for key in KEYS)
    server.plan("POST", answer(f"<DeleteResult>{failed}</DeleteResult>"), times=None)
    if is_allowed:
        assert await connector.batched_remove(KEYS) == [True] * len(KEYS)
        assert not server.objects
    else:
        server.plan("DELETE", Refuse(403, "AccessDenied"), times=None)
        with pytest.raises(AuthenticationError):
            await connector.batched_remove(KEYS)
        assert len(server.asked("DELETE")) == 1


async def test_of_two_keys_that_xml_makes_equal_the_right_one_is_removed(
    rclone_server: RcloneServer, local_cpu_backend: LocalCPUBackend
) -> None:
    prefix = secrets.token_hex(4)
    async with ConnectorManager(None, None, local_cpu_backend, CONFIG) as manager:
        carriage, line = (
            manager.create_connector(f"{rclone_server.url()}&prefix={prefix}{end}") for end in ("%0D", "%0A")
        )
        await put(carriage, "a", "b")
        await put(line, "a", "b")
        assert await carriage.batched_remove(["a", "b"]) == [True, True]
        assert await carriage.batched_exists(["a", "b"]) == [False, False]
        assert await line.batched_exists(["a", "b"]) == [True, True]


async def test_keys_by_the_thousand_are_removed_and_asked_for_also_one_by_one(
    server: FaultyS3Server, connector: ManagedConnector
) -> None:
    for number in range(2500):
        server.objects[f"p/more{number}"] = b"x"
    keys = [f"more{number}" for number in range(2500)]
    assert await connector.batched_exists(keys) == [True] * 2500
    server.plan("POST", Refuse(501, "NotImplemented"), times=None)
    assert await connector.batched_remove([*keys, *keys]) == [True] * 5000
    assert len(server.asked("DELETE")) == 2500
    assert len(server.asked("POST")) == 1
