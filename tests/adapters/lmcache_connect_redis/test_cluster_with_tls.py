"""`rediss-cluster://` on Redis itself: with TLS, a password, and the rules of another release."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from lmcache_connect import AuthenticationError, ConnectorConfig, ConnectorManager
from lmcache_connect.errors import CertificateError
from lmcache_connect.testing import ClusterServers, RedisServer

from .cluster_load import Load, slot_of_key, use_while_a_slot_moves

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(not RedisServer.available(), reason="no redis-server on PATH; install one to run this test"),
]

STRICT = ConnectorConfig.load(errors="raise", operation_timeout=8, max_local_cpu_bytes=96 << 20)


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterServers]:
    with ClusterServers(RedisServer, tls=True, password="s3cret") as cluster:
        yield cluster


@pytest.mark.parametrize("nbytes", [pytest.param(2_000, marks=pytest.mark.long), 6 << 20])
async def test_a_slot_that_moves_hides_nothing_and_refuses_nothing(cluster: ClusterServers, nbytes: int) -> None:
    url = cluster.url("rediss-cluster", options={"ca_file": cluster.ca_file})
    async with ConnectorManager(url, config=STRICT) as manager:
        await use_while_a_slot_moves(cluster, manager, manager.create_connector(), nbytes)


async def test_slots_that_are_given_away_under_load_cost_no_call(cluster: ClusterServers) -> None:
    url = cluster.url("rediss-cluster", options={"ca_file": cluster.ca_file})
    async with ConnectorManager(url, config=STRICT) as manager:
        load = Load(manager, manager.create_connector(), [2_000, 6 << 20])
        load.start(workers=2, keys=6)
        source = cluster.owner_of(slot_of_key("worker-0-0"))
        [target, *_] = [server for server in cluster.primaries() if server is not source]
        slots = [slot_of_key(f"worker-{number}-{index}") for number in range(2) for index in range(6)]
        await asyncio.to_thread(cluster.move_slots, slots, target)
        await load.go_on(20)
        await load.stop()
        assert load.failed == []
        assert load.wrong == []


async def test_nodes_that_do_not_verify_are_not_talked_to(cluster: ClusterServers) -> None:
    async with ConnectorManager(cluster.url("rediss-cluster"), config=STRICT) as manager:
        with pytest.raises(CertificateError):
            await manager.create_connector().get("key")


async def test_a_wrong_password_is_told_at_once(cluster: ClusterServers) -> None:
    url = cluster.url("rediss-cluster", options={"ca_file": cluster.ca_file}).replace("s3cret", "wrong")
    async with ConnectorManager(url, config=STRICT) as manager:
        with pytest.raises(AuthenticationError):
            await manager.create_connector().get("key")
