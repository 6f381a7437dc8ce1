"""Behind the proxies that operators put in front of Redis: twemproxy and HAProxy, the real programs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import anyio
import pytest

from lmcache_connect import ConnectorConfig, ConnectorManager, StoreError, StoreUnavailableError
from lmcache_connect.record import chunk_names
from lmcache_connect.testing import ValkeyServer
from lmcache_connect.testing.servers.redis_proxies import HAProxyServer, TwemproxyServer
from lmcache_connect_redis.connector import RedisConnector

from .chunks import chunk, holds

pytestmark = [pytest.mark.asyncio, pytest.mark.proxy]

MIB = 1 << 20
ONCE = ConnectorConfig.load(operation_timeout=5, retries=0, breaker_failures=1000, max_local_cpu_bytes=128 * MIB)
SIZES = {"small": 4096, "megabyte": MIB, "large": 9 * MIB + 77}

needs_twemproxy = pytest.mark.skipif(
    not TwemproxyServer.available(), reason="twemproxy (nutcracker) is not installed on this machine"
)
needs_haproxy = pytest.mark.skipif(not HAProxyServer.available(), reason="HAProxy is not installed on this machine")


@pytest.fixture
def two_servers() -> Iterator[tuple[ValkeyServer, ValkeyServer]]:
    with ValkeyServer() as one, ValkeyServer() as other:
        yield one, other


def follow(replica: ValkeyServer, primary: ValkeyServer) -> None:
    """Makes one server the replica of the other. Its clients keep their connections."""
    with replica.client() as client:
        client.replicaof(primary.host, primary.port)


# ---------------------------------------------------------------------------------------------------- twemproxy


@needs_twemproxy
@pytest.mark.parametrize("io", ["auto", "loop"])
async def test_chunks_of_all_sizes_live_behind_twemproxy(
    two_servers: tuple[ValkeyServer, ValkeyServer], io: str
) -> None:
    with TwemproxyServer(*two_servers) as proxy:
        async with ConnectorManager(f"{proxy.url()}?io={io}&ttl=60", config=ONCE) as manager:
            connector = manager.create_connector()
            for key, nbytes in SIZES.items():
                with chunk(manager.local_cpu_backend, key, nbytes) as obj:
                    await connector.put(key, obj)
                    await connector.put(key, obj)  # over itself as well
                assert holds(await connector.get(key), key)
            keys = [f"k{number}" for number in range(40)]
            objs = [chunk(manager.local_cpu_backend, key, 64 << 10) for key in keys]
            await connector.batched_put(keys, objs)
            for obj in objs:
                obj.ref_count_down()
            assert await connector.batched_exists([*keys, "none"]) == [*[True] * 40, False]
            found = await connector.batched_get([*keys, "none"])
            assert [holds(obj, key) for key, obj in zip([*keys, "none"], found, strict=True)] == [*[True] * 40, False]
            assert await connector.remove("k0")
            assert not await connector.exists("k0")
            await connector.ping()
            assert connector.statistics()["get"].misses == {}
    for server in two_servers:
        with server.client() as client:
            assert client.dbsize() > 0


@needs_twemproxy
async def test_behind_twemproxy_no_chunk_leaves_parts_and_every_chunk_has_its_ttl(
    two_servers: tuple[ValkeyServer, ValkeyServer],
) -> None:
    with TwemproxyServer(*two_servers) as proxy:
        async with ConnectorManager(f"{proxy.url()}?ttl=60", config=ONCE) as manager:
            connector = manager.create_connector()
            for _ in range(2):
                with chunk(manager.local_cpu_backend, "large", SIZES["large"]) as obj:
                    await connector.put("large", obj)
            for server in two_servers:
                with server.client() as client:
                    assert all(client.pttl(name) > 0 for name in client.keys("*"))
            assert await connector.remove("large")
    for server in two_servers:
        with server.client() as client:
            assert client.keys("*") == []


@needs_twemproxy
async def test_what_twemproxy_lacks_is_an_error_and_no_hang(two_servers: tuple[ValkeyServer, ValkeyServer]) -> None:
    with TwemproxyServer(*two_servers) as proxy:
        async with ConnectorManager(proxy.url(), config=ONCE) as manager:
            connector = manager.create_connector()
            with anyio.fail_after(5):
                with pytest.raises(StoreUnavailableError, match=r"closed the connection|reset by peer"):
                    await connector.list()
        async with ConnectorManager(f"{proxy.url()}/3", config=ONCE) as manager:
            with anyio.fail_after(5):
                with pytest.raises(StoreUnavailableError, match=r"closed the connection|reset by peer"):
                    await manager.create_connector().ping()


@needs_twemproxy
async def test_a_server_that_dies_behind_twemproxy_is_an_error_and_comes_back(
    two_servers: tuple[ValkeyServer, ValkeyServer],
) -> None:
    one, other = two_servers
    with TwemproxyServer(one, other) as proxy:
        async with ConnectorManager(proxy.url(), config=ONCE) as manager:
            connector = manager.create_connector()
            keys = [f"k{number}" for number in range(20)]
            objs = [chunk(manager.local_cpu_backend, key, 4096) for key in keys]
            await connector.batched_put(keys, objs)
            for server in (one, other):
                server.kill()
            with pytest.raises(StoreError):
                await connector.get("k0")
            for server in (one, other):
                server.restart()
            with anyio.fail_after(20):
                while True:  # twemproxy tries its servers again in its own time
                    try:
                        await connector.batched_put(keys, objs)
                        break
                    except StoreError:
                        await asyncio.sleep(0.05)
            for obj, key in zip(await connector.batched_get(keys), keys, strict=True):
                assert holds(obj, key)
            for obj in objs:
                obj.ref_count_down()


# ------------------------------------------------------------------------------------------------------ HAProxy


@needs_twemproxy
@pytest.mark.parametrize("ttl", ["", "&ttl=60"])
async def test_chunks_are_spread_over_a_server_and_a_twemproxy(
    two_servers: tuple[ValkeyServer, ValkeyServer], ttl: str
) -> None:
    one, other = two_servers
    with TwemproxyServer(other) as proxy:
        url = f"redis-ring://{one.host}:{one.port},{proxy.host}:{proxy.port}?spread=2{ttl}"
        async with ConnectorManager(url, config=ONCE) as manager:
            connector = manager.create_connector()
            keys = [f"k{number}" for number in range(4)]
            for key in keys * 2:
                with chunk(manager.local_cpu_backend, key, SIZES["large"]) as obj:
                    await connector.put(key, obj)
                assert holds(await connector.get(key), key)
            assert await connector.batched_remove(keys) == [True] * 4
            assert await connector.batched_exists(keys) == [False] * 4


@needs_haproxy
@pytest.mark.parametrize("io", ["auto", "loop"])
async def test_chunks_of_all_sizes_live_behind_haproxy(valkey_server: ValkeyServer, valkey_url: str, io: str) -> None:
    with HAProxyServer(valkey_server) as proxy:
        async with ConnectorManager(f"{proxy.url()}?io={io}", config=ONCE) as manager:
            connector = manager.create_connector()
            for key, nbytes in SIZES.items():
                with chunk(manager.local_cpu_backend, key, nbytes) as obj:
                    await connector.put(key, obj)
                assert holds(await connector.get(key), key)
            assert len(await connector.list()) == 3


@needs_haproxy
async def test_after_a_failover_behind_haproxy_every_put_is_kept_though_the_old_connections_live_on(
    two_servers: tuple[ValkeyServer, ValkeyServer],
) -> None:
    old, new = two_servers
    follow(new, old)
    with HAProxyServer(old, new) as proxy:
        async with ConnectorManager(proxy.url(), config=ONCE) as manager:
            connector = manager.create_connector()
            with chunk(manager.local_cpu_backend, "k", 64 << 10) as obj:
                await asyncio.gather(*(connector.put("k", obj) for _ in range(8)))
                with new.client() as client:
                    client.replicaof("NO", "ONE")
                follow(old, new)
                refused = 0
                with anyio.fail_after(10):
                    while True:
                        try:
                            await connector.put("k", obj)
                            break
                        except StoreError:
                            refused += 1
                            await asyncio.sleep(0.02)  # HAProxy looks every 50 ms
                assert refused >= 1, "the connections to the old primary were alive"
                for number in range(30):
                    await connector.put(f"after-{number}", obj)
            # Asked there: HAProxy may have sent the look-ups to the old one, which is a replica and answers late.
            with new.client() as client:
                assert client.exists(*chunk_names("", [f"after-{number}" for number in range(30)])) == 30
    with new.client() as client:
        assert client.dbsize() >= 31


@needs_haproxy
async def test_a_restart_behind_haproxy_costs_no_connection_its_transactions_for_long(
    two_servers: tuple[ValkeyServer, ValkeyServer],
) -> None:
    # Without a server, HAProxy accepts connections and closes them, as a proxy does that lacks a command.
    server, _ = two_servers
    with HAProxyServer(server) as proxy:
        async with ConnectorManager(proxy.url(), config=ONCE) as manager:
            connector = manager.create_connector()
            await connector.ping()
            server.kill()
            with anyio.fail_after(10), pytest.raises(StoreUnavailableError):
                while True:
                    await connector.ping()
            server.restart()
            with anyio.fail_after(10):
                while True:
                    try:
                        await connector.ping()
                        break
                    except StoreUnavailableError:
                        await asyncio.sleep(0.02)
            assert isinstance(connector.wrapped, RedisConnector)
            connection = await connector.wrapped.dial()
            assert connection.traits.has_transactions
            connection.close()
