"""The connector of a cluster keeps every rule."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest

from lmcache_connect import ConnectorConfig
from lmcache_connect.testing import ClusterServers, FaultProxy
from lmcache_connect.testing.servers.redis import StoreServer

from .raw_redis import RedisConformance


class TestAClusterOfThree(RedisConformance):
    """Each node stands behind a proxy, whose port it tells its clients. So all of them can fail at once."""

    capabilities = replace(RedisConformance.capabilities, ttl=True)
    options = ""

    @pytest.fixture(autouse=True)
    def _on_cluster(self, _on_valkey: None, behind_proxies: tuple[ClusterServers, Sequence[FaultProxy]]) -> None:
        self.cluster, self.proxies = behind_proxies
        self.cluster.flush()
        self.store_address = ""

    @pytest.fixture
    def store_url(self) -> str:
        return "redis-cluster://" + ",".join(f"{proxy.host}:{proxy.port}" for proxy in self.proxies) + self.options

    def config(self) -> ConnectorConfig:
        # Each node has a breaker of its own. The rules take an answer of one key for one of the store.
        return super().config().model_copy(update={"breaker_failures": 1000})

    async def break_store(self) -> None:
        for proxy in self.proxies:
            await asyncio.to_thread(proxy.stop)

    async def mend_store(self) -> None:
        for proxy in self.proxies:
            await asyncio.to_thread(proxy.start)

    def _read(self, name: str) -> bytes | None:
        self.server = self.cluster.owner_of(name)
        return super()._read(name)

    def _write(self, name: str, data: bytes) -> None:
        self.server = self.cluster.owner_of(name)
        super()._write(name, data)


@pytest.mark.variant
class TestAClusterInThreads(TestAClusterOfThree):
    options = "?io=thread&stripe=65536"


@pytest.fixture(scope="module")
def behind_proxies() -> Iterator[tuple[ClusterServers, Sequence[FaultProxy]]]:
    with ClusterServers(replicas_each=0) as cluster:
        proxies = [FaultProxy(server.host, server.port) for server in cluster.nodes()]
        for proxy in proxies:
            proxy.start()
        try:
            for server, proxy in zip(cluster.nodes(), proxies, strict=True):
                with server.client() as client:
                    client.config_set("cluster-announce-port", proxy.port)
            wanted = {proxy.port for proxy in proxies}
            _until(lambda: all(_ports(server) == wanted for server in cluster.nodes()))
            yield cluster, proxies
        finally:
            for proxy in proxies:
                proxy.stop()


def _ports(server: StoreServer) -> set[int]:
    with server.client() as client:
        return {primary[1] for _, _, primary, *_ in client.execute_command("CLUSTER", "SLOTS")}


def _until(is_so: Callable[[], bool]) -> None:
    ends = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.02)
