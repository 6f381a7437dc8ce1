"""A damaged object is removed only where nothing else can be hit, and stays a miss elsewhere."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator
from typing import Final

import pytest

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.testing import FaultyS3Server
from lmcache_connect.testing.servers.s3 import BUCKET, MotoServer, RcloneServer
from lmcache_connect.testing.servers.s3_faults import Do, Fault, Refuse, Reply, Request

from ...testing.conformance.raw_s3 import client_of

pytestmark = pytest.mark.asyncio

CONFIG: Final = ConnectorConfig.load(operation_timeout=10, retries=0, breaker_failures=1000)


@pytest.fixture
def server() -> Iterator[FaultyS3Server]:
    with FaultyS3Server() as made:
        yield made


async def put(connector: ManagedConnector, *keys: str, nbytes: int = 1000) -> None:
    with connector.context.local_cpu_backend.allocate((nbytes,), "uint8") as chunk:  # type: ignore[union-attr]
        chunk.byte_array[:] = b"k" * nbytes
        await connector.batched_put(keys, [chunk] * len(keys))


async def holds(connector: ManagedConnector, key: str) -> bool:
    found = await connector.get(key)
    if found is None:
        return False
    with found:
        assert bytes(found.byte_array) == b"k" * found.get_size()
    return True


def outcomes(connector: ManagedConnector) -> Counter[str]:
    """How often a damaged record had each outcome."""
    return Counter({outcome: count for (_, outcome), count in connector.metrics.removals.items()})


def flipped(record: bytes) -> bytes:
    """The record with one bit of its payload changed."""
    at = len(record) - 20
    return record[:at] + bytes([record[at] ^ 1]) + record[at + 1 :]


@pytest.mark.parametrize("nbytes", [1000, 3 << 20])
async def test_it_is_removed_from_a_store_that_removes_on_a_condition(
    moto_server: MotoServer, local_cpu_backend: LocalCPUBackend, nbytes: int
) -> None:
    prefix = secrets.token_hex(4)
    client = client_of(moto_server)
    async with ConnectorManager(moto_server.url(prefix), None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        await put(connector, "k", "sound", nbytes=nbytes)
        record = client.get_object(Bucket=BUCKET, Key=f"{prefix}/k")["Body"].read()
        client.put_object(Bucket=BUCKET, Key=f"{prefix}/k", Body=flipped(record))
        assert not await holds(connector, "k")
        assert outcomes(connector) == {"removed": 1}
        assert not await connector.exists("k")
        assert await holds(connector, "sound")
    left = client.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/")["Contents"]
    assert [found["Key"] for found in left] == [f"{prefix}/sound"]


async def test_on_rclone_which_removes_whatever_is_there_it_stays_a_miss_until_it_is_overwritten(
    rclone_server: RcloneServer, local_cpu_backend: LocalCPUBackend
) -> None:
    prefix = secrets.token_hex(4)
    async with ConnectorManager(rclone_server.url(prefix), None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        await put(connector, "k")
        file = rclone_server.file(f"{prefix}/k")
        file.write_bytes(flipped(file.read_bytes()))
        for _ in range(2):
            assert not await holds(connector, "k")
        assert outcomes(connector) == {"unsupported": 2}
        assert file.exists()
        assert await connector.list() == ["k"]
        await put(connector, "k")
        assert await holds(connector, "k")


async def test_where_the_condition_is_ignored_it_stays_and_the_store_is_asked_once(
    server: FaultyS3Server, local_cpu_backend: LocalCPUBackend
) -> None:
    server.has_conditional_removal = False
    async with ConnectorManager(server.url("p"), None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        await put(connector, "a", "b")
        puts = len(server.asked("PUT"))
        for name in ("p/a", "p/b"):
            server.objects[name] = flipped(server.objects[name])
        for key in ("a", "b", "a"):
            assert not await holds(connector, key)
        assert outcomes(connector) == {"unsupported": 3}
    assert sorted(server.objects) == ["p/a", "p/b"]
    assert len(server.asked("PUT")) == puts + 1


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_where_the_store_cannot_be_tried_it_stays(
    server: FaultyS3Server, local_cpu_backend: LocalCPUBackend, method: str
) -> None:
    async with ConnectorManager(server.url("p"), None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        await put(connector, "k")
        server.objects["p/k"] = flipped(server.objects["p/k"])
        server.plan(method, Refuse(403, "AccessDenied"), times=None)
        for _ in range(2):
            assert not await holds(connector, "k")
        assert outcomes(connector) == {"unsupported": 2}
        assert "p/k" in server.objects


async def test_an_object_that_one_answer_damaged_stays(
    server: FaultyS3Server, local_cpu_backend: LocalCPUBackend
) -> None:
    def flip(reply: Reply, request: Request) -> None:
        reply.body = flipped(reply.body)

    async with ConnectorManager(server.url("p"), None, local_cpu_backend, CONFIG) as manager:
        await put(manager.create_connector(), "k")
        server.plan("GET", Do(flip))
        connector = manager.create_connector()  # over a connection that was used before, a get looks again by itself
        assert not await holds(connector, "k")
        assert outcomes(connector) == {"changed": 1}
        assert await holds(connector, "k")


@pytest.mark.parametrize("look", [1, 2])
@pytest.mark.parametrize("is_good", [True, False])
async def test_an_object_that_was_replaced_after_a_look_stays(
    server: FaultyS3Server, local_cpu_backend: LocalCPUBackend, look: int, is_good: bool
) -> None:
    async with ConnectorManager(server.url("p"), None, local_cpu_backend, CONFIG) as manager:
        await put(manager.create_connector(), "k")
        good = server.objects["p/k"]
        another = good if is_good else flipped(good[:-1] + b"x")
        server.objects["p/k"] = flipped(good)

        def replace(reply: Reply, request: Request) -> None:
            server.objects["p/k"] = another

        server.plan("GET", Fault(), times=look - 1)
        server.plan("GET", Do(replace))
        connector = manager.create_connector()
        assert not await holds(connector, "k")
        assert outcomes(connector) == {"changed": 1}
        assert server.objects["p/k"] == another


async def test_what_is_not_ours_stays(server: FaultyS3Server, local_cpu_backend: LocalCPUBackend) -> None:
    async with ConnectorManager(server.url("p"), None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        server.objects["p/k"] = b"somebody else's bytes " * 100
        assert not await holds(connector, "k")
        assert outcomes(connector) == {"not_ours": 1}
        assert "p/k" in server.objects
