"""Rights, names and damaged objects on Ceph's object gateway, which denies what is missing. Skipped without Ceph."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from typing import Final

import pytest
import pytest_asyncio

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.oversight import clear
from lmcache_connect.testing.servers.ceph import CephServer
from lmcache_connect.testing.servers.s3 import BUCKET

from ...testing.conformance.raw_s3 import client_of

pytestmark = pytest.mark.asyncio

CONFIG: Final = ConnectorConfig.load(operation_timeout=20, retries=0)


async def put(connector: ManagedConnector, *keys: str) -> None:
    with connector.context.local_cpu_backend.allocate((1000,), "uint8") as chunk:  # type: ignore[union-attr]
        await connector.batched_put(keys, [chunk] * len(keys))


async def holds(connector: ManagedConnector, key: str) -> bool:
    found = await connector.get(key)
    if found is None:
        return False
    with found:
        return True


@pytest_asyncio.fixture
async def tenant(ceph_server: CephServer, local_cpu_backend: LocalCPUBackend) -> AsyncIterator[ManagedConnector]:
    """A connector of somebody who may read, write and remove objects under its prefix, and nothing else."""
    prefix = secrets.token_hex(4)
    statement = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"],
        "Resource": f"arn:aws:s3:::{BUCKET}/{prefix}/*",
    }
    client = client_of(ceph_server)
    client.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    url = ceph_server.url(prefix, access_key=None, secret_key=None, anonymous="true")
    try:
        async with ConnectorManager(url, None, local_cpu_backend, CONFIG) as manager:
            yield manager.create_connector()
    finally:
        client.delete_bucket_policy(Bucket=BUCKET)


async def test_rights_on_objects_suffice_where_what_is_missing_is_denied(tenant: ManagedConnector) -> None:
    assert await tenant.ping() == 0
    assert not await tenant.exists("k")
    assert not await holds(tenant, "k")
    assert not await tenant.remove("k")
    await put(tenant, "k", "l", "m")
    assert await tenant.batched_exists(["k", "missing", "l"]) == [True, False, True]
    assert await holds(tenant, "k")
    assert await tenant.remove("k")
    assert not await tenant.exists("k")
    assert await tenant.batched_remove(["l", "m", "missing"]) == [True, True, True]
    assert await tenant.batched_exists(["l", "m"]) == [False, False]


@pytest.mark.parametrize("prefix", ["a%20b", "a%2Bb", "a%25b", "%C3%A9", "a%26b"])
async def test_names_of_any_characters_are_listed_and_cleared(
    ceph_server: CephServer, local_cpu_backend: LocalCPUBackend, prefix: str
) -> None:
    url = f"{ceph_server.url()}&prefix={secrets.token_hex(4)}{prefix}"
    async with ConnectorManager(url, None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        keys = ["a b", "a+b", "a%2Bb", "a/b", "é", "&<>"]
        await put(connector, *keys)
        assert sorted(await connector.list()) == sorted(keys)
        found = await clear(connector, "")
        assert (found.matched, found.removed, found.left_out, found.is_complete) == (6, 6, 0, True)
        assert await connector.list() == []


async def test_a_damaged_object_is_removed_only_if_the_gateway_removes_on_a_condition(
    ceph_server: CephServer, local_cpu_backend: LocalCPUBackend
) -> None:
    prefix = secrets.token_hex(4)
    client = client_of(ceph_server)
    async with ConnectorManager(ceph_server.url(prefix), None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        await put(connector, "k")
        record = bytearray(client.get_object(Bucket=BUCKET, Key=f"{prefix}/k")["Body"].read())
        record[-20] ^= 1
        client.put_object(Bucket=BUCKET, Key=f"{prefix}/k", Body=bytes(record))
        assert not await holds(connector, "k")
        assert dict(connector.metrics.removals) == {("checksum", "unsupported"): 1}
    left = client.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/")["Contents"]
    assert [found["Key"] for found in left] == [f"{prefix}/k"]
