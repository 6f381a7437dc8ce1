"""The connector of several servers keeps every rule."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from lmcache_connect import ConnectorConfig
from lmcache_connect.testing import FaultProxy, ValkeyServer
from lmcache_connect.testing.servers.redis import StoreServer
from lmcache_connect_redis.topology.ring import Ring

from .raw_redis import RedisConformance


class TestARingOfThree(RedisConformance):
    """Each server stands behind a proxy of its own, so that all of them can fail at once."""

    capabilities = replace(RedisConformance.capabilities, ttl=True)
    options = ""

    @pytest.fixture(autouse=True)
    def _on_ring(self, _on_valkey: None, ring_servers: list[StoreServer]) -> Iterator[None]:
        for server in ring_servers:
            server.flush()
        self.servers = ring_servers
        self.proxies = [FaultProxy(server.host, server.port) for server in ring_servers]
        self.store_address = ""
        for proxy in self.proxies:
            proxy.start()
        try:
            yield
        finally:
            for proxy in self.proxies:
                proxy.stop()

    @pytest.fixture
    def store_url(self) -> str:
        return "redis-ring://" + ",".join(f"{proxy.host}:{proxy.port}" for proxy in self.proxies) + self.options

    def config(self) -> ConnectorConfig:
        # Each server has a breaker of its own. The rules take an answer of one key for one of the store.
        return super().config().model_copy(update={"breaker_failures": 1000})

    async def break_store(self) -> None:
        for proxy in self.proxies:
            await asyncio.to_thread(proxy.stop)

    async def mend_store(self) -> None:
        for proxy in self.proxies:
            await asyncio.to_thread(proxy.start)

    def _read(self, name: str) -> bytes | None:
        self._go_to_server_of(name)
        return super()._read(name)

    def _write(self, name: str, data: bytes) -> None:
        self._go_to_server_of(name)
        super()._write(name, data)

    def _go_to_server_of(self, name: str) -> None:
        addresses = [(proxy.host, proxy.port) for proxy in self.proxies]
        self.server = self.servers[addresses.index(Ring(addresses).address_of(name))]


class TestARingInThreads(TestARingOfThree):
    options = "?io=thread&stripe=65536"


class TestASpreadingRing(TestARingOfThree):
    """Chunks of 8 MiB and more, of which the rules have some, lie on two servers each."""

    options = "?spread=2"


class TestASpreadingRingInThreads(TestARingOfThree):
    options = "?spread=3&io=thread&stripe=65536"


class TestARingOfOne(RedisConformance):
    capabilities = replace(RedisConformance.capabilities, ttl=True)

    @pytest.fixture
    def store_url(self) -> str:
        return f"redis-ring://{self.store_address}"


@pytest.fixture(scope="module")
def ring_servers(valkey_server: ValkeyServer) -> Iterator[list[Any]]:
    with ValkeyServer() as second, ValkeyServer() as third:
        yield [valkey_server, second, third]
