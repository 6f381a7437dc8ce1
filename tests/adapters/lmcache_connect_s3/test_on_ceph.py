"""The S3 connector on Ceph's object gateway, which answers uploads in its own way. Skipped where it is missing."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import pytest_asyncio

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.testing.servers.ceph import CephServer
from lmcache_connect.testing.servers.s3 import BUCKET

from ...testing.conformance.raw_s3 import client_of

NBYTES: Final = (11 << 20) + 5
PARTS: Final[dict[str, Any]] = {"multipart_threshold": 5 << 20, "part_size": 5 << 20}
CONFIG: Final = ConnectorConfig.load(operation_timeout=20)


@pytest_asyncio.fixture(params=["none", "crc32", "sha256"])
async def connector(
    ceph_server: CephServer, request: pytest.FixtureRequest, local_cpu_backend: LocalCPUBackend
) -> AsyncIterator[ManagedConnector]:
    url = ceph_server.url(secrets.token_hex(4), object_checksum=request.param, **PARTS)
    async with ConnectorManager(url, None, local_cpu_backend, CONFIG) as manager:
        yield manager.create_connector()


async def put(connector: ManagedConnector, key: str, seed: int, nbytes: int = NBYTES) -> None:
    chunk = connector.context.local_cpu_backend.allocate((nbytes,), "uint8")
    assert chunk is not None
    with chunk:
        chunk.byte_array[:] = content(seed, nbytes)
        await connector.put(key, chunk)


def content(seed: int, nbytes: int = NBYTES) -> bytes:
    return (bytes([seed]) + b"kv-cache") * (nbytes // 9) + b"x" * (nbytes % 9)


async def holds(connector: ManagedConnector, key: str, seed: int, nbytes: int = NBYTES) -> bool:
    obj = await connector.get(key)
    if obj is None:
        return False
    with obj:
        return bytes(obj.byte_array) == content(seed, nbytes)


@pytest.mark.asyncio
async def test_a_chunk_in_parts_is_stored_overwritten_listed_and_removed(connector: ManagedConnector) -> None:
    for seed in (1, 2):
        await put(connector, "k", seed)
        assert await holds(connector, "k", seed)
    assert await connector.list() == ["k"]
    assert await connector.batched_remove(["k"]) == [True]
    assert await connector.get("k") is None


@pytest.mark.asyncio
async def test_small_chunks_and_tags_are_stored(ceph_server: CephServer, local_cpu_backend: LocalCPUBackend) -> None:
    url = ceph_server.url(secrets.token_hex(4), tags="tenant=one")
    async with ConnectorManager(url, None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        await put(connector, "k", 1, 1000)
        assert await holds(connector, "k", 1, 1000)
        assert await connector.batched_exists(["k", "other"]) == [True, False]


@pytest.mark.asyncio
async def test_another_programs_object_is_a_miss_and_stays(
    ceph_server: CephServer, connector: ManagedConnector
) -> None:
    await put(connector, "k", 1, 1000)
    client = client_of(ceph_server)
    name = next(
        item["Key"]
        for item in client.list_objects_v2(Bucket=BUCKET)["Contents"]
        if item["Key"].startswith(connector.store.rpartition("/")[2])
    )
    for nothing in (b"", b"hello", b"<html>", b"x" * 100_000):
        client.put_object(Bucket=BUCKET, Key=name, Body=nothing)
        assert await connector.batched_get(["k", "other"]) == [None, None]
        assert client.get_object(Bucket=BUCKET, Key=name)["Body"].read() == nothing


@pytest.mark.asyncio
async def test_puts_that_were_cancelled_leave_no_upload(
    ceph_server: CephServer, local_cpu_backend: LocalCPUBackend
) -> None:
    async with ConnectorManager(ceph_server.url("cancelled", **PARTS), None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        for moment in (0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12):
            putting = asyncio.create_task(put(connector, "k", 1))
            await asyncio.sleep(moment)
            putting.cancel()
            await asyncio.wait((putting,))
        await put(connector, "k", 2)
        assert await holds(connector, "k", 2)
    assert "Uploads" not in client_of(ceph_server).list_multipart_uploads(Bucket=BUCKET)
