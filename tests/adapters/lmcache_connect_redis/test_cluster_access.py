"""The line of `docs/cluster.md` allows a user all that this toolkit does on a cluster, and nothing is missing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmcache_connect import ConnectorConfig, ConnectorManager
from lmcache_connect.record import chunk_names
from lmcache_connect.testing import ClusterServers
from lmcache_connect_redis.topology.slots import slot_of

from .chunks import holds
from .cluster_load import put

pytestmark = pytest.mark.asyncio

PAGE = Path(__file__).parents[3] / "docs/cluster.md"


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterServers]:
    [line] = re.findall(r"^ACL SETUSER .*$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    with ClusterServers() as cluster:
        for server in cluster.nodes():
            with server.client() as client:
                client.execute_command(*line.split())
        yield cluster


@pytest.mark.parametrize("replicas", ["never", "prefer"])
async def test_the_user_of_the_page_can_do_everything(cluster: ClusterServers, replicas: str) -> None:
    url = cluster.url(options={"prefix": "tenant", "replicas": replicas}).replace("://", "://kv:password@")
    keys = [f"key-{number}" for number in range(12)]
    config = ConnectorConfig.load(errors="raise", max_local_cpu_bytes=64 << 20)
    async with ConnectorManager(url, config=config) as manager:
        connector = manager.create_connector()
        for key in keys:
            await put(manager, connector, key, 6 << 20 if key == keys[0] else 1000)
        [name] = chunk_names("tenant:", [keys[0]])
        slot = slot_of(name)
        source = await asyncio.to_thread(cluster.owner_of, slot)
        target = next(server for server in await asyncio.to_thread(cluster.primaries) if server is not source)
        migration = await asyncio.to_thread(cluster.migrate_slot, slot, target)
        await asyncio.to_thread(migration.move_keys)
        await put(manager, connector, keys[0], 6 << 20)
        if replicas == "never":  # a replica knows nothing of a slot that is moving
            assert holds(await connector.get(keys[0]), keys[0])
        await asyncio.to_thread(migration.finish)
        await asyncio.to_thread(cluster.wait_until_healthy)
        assert sorted(await connector.list()) == sorted(keys)
        await connector.announce("worker", b"document", 60)
        assert await connector.announced() == [b"document"]
        await connector.withdraw("worker")
        assert await connector.ping() == 0
        assert await connector.batched_remove(keys) == [True] * len(keys)
