"""Connectors keep every rule on the servers of the fixtures: TLS, a password, Sentinel, and whatever
`--lmcache-connect-redis` names."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import redis

from lmcache_connect.testing import SentinelServers
from lmcache_connect.testing.servers.redis_store import OwnRedisStore, RedisStore
from lmcache_reference_connectors.redis import RedisReferenceAdapter

from .raw_redis import RedisConformance


class StoreConformance(RedisConformance):
    """A suite on the fixture `redis_<topology>`. On somebody else's store it keeps below a prefix."""

    topology: ClassVar[str]
    options: ClassVar[dict[str, str]] = {}
    store: RedisStore

    elsewhere: ClassVar[str] = ""
    """The file whose suite tests the same on embedded servers. `conftest.py` then leaves the class out."""

    @pytest.fixture(autouse=True)
    def _on_valkey(self, request: pytest.FixtureRequest) -> None:
        self.store = store = request.getfixturevalue(f"redis_{self.topology}")
        self.store_address = store.address if isinstance(store, OwnRedisStore) else ""

    @pytest.fixture
    def store_url(self) -> str:
        return self.store.url(options=self.options)

    def name_of(self, key: str) -> str:
        name = super().name_of(key)
        return f"{self.store.prefix}:{name}" if self.store.prefix else name

    def _read(self, name: str) -> bytes | None:
        with self.store.client_of(name) as client:
            return self._read_by(client, name)

    def _write(self, name: str, data: bytes) -> None:
        with self.store.client_of(name) as client:
            self._write_by(client, name, data)


class TestSingle(StoreConformance):
    topology = "single"
    elsewhere = "test_fast_redis.py"
    capabilities = replace(RedisConformance.capabilities, ttl=True)


class TestUnix(TestSingle):
    topology = "unix"


class TestASentinelGroup(TestSingle):
    topology = "sentinel"
    elsewhere = "TestSentinel"


class TestCluster(TestSingle):
    topology = "cluster"
    elsewhere = "test_redis_cluster.py"


class TestRing(TestSingle):
    topology = "ring"
    elsewhere = "test_redis_ring.py"


@pytest.mark.variant
class TestPassword(TestSingle):
    topology = "password"
    elsewhere = ""


@pytest.mark.variant
@pytest.mark.tls
class TestTLS(TestSingle):
    topology = "tls"
    elsewhere = ""


@pytest.mark.variant
@pytest.mark.tls
class TestTLSInThreads(TestTLS):
    options: ClassVar[dict[str, str]] = {"io": "thread", "stripe": "65536"}


@pytest.mark.variant
class TestSentinel(RedisConformance):
    """The primary is made to refuse clients while it holds its chunks, and no replica takes over."""

    capabilities = replace(RedisConformance.capabilities, ttl=True)
    options: ClassVar[dict[str, str]] = {}

    @pytest.fixture(autouse=True)
    def _on_valkey(self, slow_sentinels: SentinelServers) -> None:
        self.group = slow_sentinels
        self._use(self.group.primary())
        self.store_address = ""

    @pytest.fixture
    def store_url(self) -> str:
        return self.group.url(options=self.options)

    async def break_store(self) -> None:
        await asyncio.to_thread(self._listen, 0)

    async def mend_store(self) -> None:
        await asyncio.to_thread(self._listen, self.server.port)

    def _listen(self, port: int) -> None:
        with redis.Redis(unix_socket_path=self.server.unix_path, password=self.server.password, protocol=2) as client:
            client.config_set("port", port)
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


@pytest.fixture(scope="module")
def slow_sentinels() -> Iterator[SentinelServers]:
    with SentinelServers(down_after=300, password="s3cret") as group:
        yield group


class TestPlainRedis(StoreConformance):
    """The reference connector, on redis-py alone. It has no prefix, so that it needs a store of its own."""

    topology = "single"
    adapters: Any = (RedisReferenceAdapter,)

    @pytest.fixture
    def store_url(self) -> str:
        if not self.store.is_own:
            pytest.skip(f"plain-redis:// has no prefix, and {self.store.origin} is not the tests' own")
        return self.store.url().replace("redis://", "plain-redis://", 1)


@pytest.mark.variant
class TestExternalRedis(TestPlainRedis):
    """The same class as somebody else's, which the URL names."""

    adapters: Any = ()

    @pytest.fixture
    def store_url(self) -> str:
        if not self.store.is_own:
            pytest.skip(f"this connector has no prefix, and {self.store.origin} is not the tests' own")
        where = self.store.url().removeprefix("redis://").partition("/")[0]
        return f"external://{where}/lmcache_reference_connectors.redis/?connector_name=RedisReferenceConnector"
