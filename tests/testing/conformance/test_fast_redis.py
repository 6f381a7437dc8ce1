"""The Redis connector keeps every rule: over TCP and a unix socket, on Valkey and Redis, with a prefix."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lmcache_connect.record import chunk_names
from lmcache_connect.record.lmcache_metadata import REMOTE_DTYPES
from lmcache_connect.testing.servers.redis import StoreServer
from lmcache_connect.testing.subject import Subject, release, rule

from .raw_redis import RedisConformance


class TestValkeyOverTCP(RedisConformance):
    capabilities = replace(RedisConformance.capabilities, ttl=True)

    @pytest.fixture
    def store_url(self) -> str:
        return self.server.url()


@pytest.mark.variant
class TestValkeyOverAUnixSocket(TestValkeyOverTCP):
    @pytest.fixture
    def store_url(self) -> str:
        self.store_address = ""  # a proxy needs a port
        return self.server.url("unix")


@pytest.mark.variant
class TestStripedRecords(TestValkeyOverTCP):
    """Chunks of more than 256 KiB as a hash of pieces of 64 KiB."""

    @pytest.fixture
    def store_url(self) -> str:
        return self.server.url(options={"stripe": "65536"})


@pytest.mark.variant
class TestInAThread(TestValkeyOverTCP):
    """A thread moves every call's bytes, of whatever size."""

    @pytest.fixture
    def store_url(self) -> str:
        return self.server.url(options={"io": "thread"})


class TestStripedRecordsInAThread(TestValkeyOverTCP):
    @pytest.fixture
    def store_url(self) -> str:
        return self.server.url(options={"stripe": "65536", "io": "thread"})


@pytest.mark.variant
class TestStripedRecordsOnTheLoop(TestValkeyOverTCP):
    @pytest.fixture
    def store_url(self) -> str:
        return self.server.url(options={"stripe": "65536", "io": "loop"})


@pytest.mark.variant
class TestRedis(TestValkeyOverTCP):
    @pytest.fixture(autouse=True)
    def _on_redis(self, redis_server: StoreServer, _on_valkey: None) -> None:
        self._use(redis_server)


@pytest.mark.variant
class TestAPrefix(TestValkeyOverTCP):
    prefix = "tenant-a:"

    @pytest.fixture
    def store_url(self) -> str:
        return self.server.url(options={"prefix": "tenant-a"})

    @rule
    async def test_nothing_of_another_prefix_is_seen(self, subject: Subject) -> None:
        """Tenants share a server: each sees its own keys alone, and the bytes of another's are refused."""
        key = subject.key()
        url = self.server.url(options={"prefix": "tenant-b"})
        other = subject.manager.create_connector(url)
        with subject.chunk(key) as obj:
            await other.put(key, obj)
        assert await subject.connector.list() == []
        assert [name async for name in subject.connector.scan()] == []
        assert await subject.connector.exists(key) is False
        record = await self._raw_of(chunk_names("tenant-b:", [key])[0])
        await self.write_raw(key, record)
        obj_or_none = await subject.connector.get(key)
        release([obj_or_none])
        assert obj_or_none is None
        assert await other.list() == [key]

    async def _raw_of(self, name: str) -> bytes:
        value = self._read(name)
        assert value is not None
        return value


class TestLMCachesLayout(TestValkeyOverTCP):
    """LMCache's own two keys a chunk. They hold no checksum, so that damage in a payload is not found out."""

    capabilities = replace(TestValkeyOverTCP.capabilities, raw=False, dtypes=REMOTE_DTYPES, dimensions=4)

    @pytest.fixture
    def store_url(self) -> str:
        return self.server.url(options={"layout": "lmcache"})


@pytest.mark.variant
class TestLMCachesLayoutInAThread(TestLMCachesLayout):
    @pytest.fixture
    def store_url(self) -> str:
        return self.server.url(options={"layout": "lmcache", "io": "thread"})


@pytest.mark.variant
class TestLMCachesLayoutOnRedis(TestLMCachesLayout):
    @pytest.fixture(autouse=True)
    def _on_redis(self, redis_server: StoreServer, _on_valkey: None) -> None:
        self._use(redis_server)
