"""A primary with replicas and sentinels, as real processes: killed, frozen, failed over, demoted, and with TLS."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from lmcache_connect import ConnectorConfig, ConnectorManager, ManagedConnector, MemoryObj, StoreError
from lmcache_connect.record import chunk_names
from lmcache_connect.testing import RedisServer, SentinelServers, ValkeyServer
from lmcache_connect.testing.servers.redis import StoreServer
from lmcache_connect_redis.protocol.setup import CLIENT_NAME
from lmcache_connect_redis.topology.cluster import NoClusterError

from .chunks import chunk, holds

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(120)]

MIB = 1 << 20
SIZES = {"small": 4096, "megabyte": MIB, "large": 9 * MIB + 77}
CONFIG = ConnectorConfig.load(operation_timeout=5, max_local_cpu_bytes=256 * MIB)
RECOVERY = 90.0
"""Seconds in which sentinels agree at last, also where several of their votes were split."""


def hurry(group: SentinelServers) -> None:
    """Has sentinels whose vote was split vote again after three seconds instead of ten."""
    for sentinel in group.sentinels:
        with sentinel.client() as client:
            client.execute_command("SENTINEL", "SET", group.service, "failover-timeout", "1500")


@pytest.fixture(scope="module", params=["valkey"])  # the group with TLS is of Redis
def group(request: pytest.FixtureRequest) -> Iterator[SentinelServers]:
    kind = ValkeyServer if request.param == "valkey" else RedisServer
    if not kind.available():
        pytest.skip(f"{request.param}: no such server on this machine")
    with SentinelServers(kind, password="for-data") as started:
        hurry(started)
        yield started


@asynccontextmanager
async def connected(
    url: str, config: ConnectorConfig = CONFIG
) -> AsyncIterator[tuple[ConnectorManager, ManagedConnector]]:
    async with ConnectorManager(url, config=config) as manager:
        yield manager, manager.create_connector()


async def put(manager: ConnectorManager, connector: ManagedConnector, key: str, nbytes: int) -> None:
    with chunk(manager.local_cpu_backend, key, nbytes) as obj:
        await connector.put(key, obj)


async def until_put(
    manager: ConnectorManager, connector: ManagedConnector, key: str, seconds: float = RECOVERY
) -> None:
    with anyio.fail_after(seconds):
        while True:
            try:
                return await put(manager, connector, key, 4096)
            except StoreError:
                await asyncio.sleep(0.05)


def clients_of(server: StoreServer) -> int:
    with server.client() as client:
        return sum(found["name"] == CLIENT_NAME for found in client.client_list())


@pytest.mark.parametrize("io", ["auto", "loop"])
async def test_chunks_of_all_sizes_live_on_the_primary(group: SentinelServers, io: str) -> None:
    group.flush()
    async with connected(group.url(options={"io": io, "prefix": "p"})) as (manager, connector):
        for key, nbytes in SIZES.items():
            await put(manager, connector, key, nbytes)
            assert holds(await connector.get(key), key)
        assert await connector.batched_exists([*SIZES, "none"]) == [True, True, True, False]
        found = await connector.batched_get([*SIZES, "none"])
        assert [holds(obj, key) for obj, key in zip(found, [*SIZES, "none"], strict=True)] == [True] * 3 + [False]
        assert sorted(await connector.list()) == sorted(SIZES)
        assert await connector.remove("small")
        assert await asyncio.to_thread(connector.sync.exists, "large")
        assert await connector.ping() == 0
    with group.primary().client() as client:
        assert client.dbsize() == 2


async def test_a_failover_is_followed_and_no_connection_to_the_old_primary_is_kept(group: SentinelServers) -> None:
    await asyncio.to_thread(group.wait_until_healthy)
    group.flush()
    async with connected(group.url()) as (manager, connector):
        await asyncio.gather(*(put(manager, connector, f"k{number}", 2 * MIB) for number in range(6)))
        old = group.primary()
        assert clients_of(old)
        new = await asyncio.to_thread(group.fail_over, timeout=RECOVERY)
        assert new is not old
        await until_put(manager, connector, "after")
        await asyncio.gather(*(put(manager, connector, f"a{number}", 2 * MIB) for number in range(6)))
        for number in range(6):
            assert holds(await connector.get(f"a{number}"), f"a{number}")
        with anyio.fail_after(5):
            while clients_of(old):
                await asyncio.sleep(0.02)
    with new.client() as client:
        assert client.dbsize() >= 7


async def test_a_primary_that_is_killed_under_load_brings_no_wrong_data_and_puts_go_on(group: SentinelServers) -> None:
    await asyncio.to_thread(group.wait_until_healthy)
    group.flush()
    sizes = [MIB, 3 * MIB, 8 * MIB, 32 * MIB]
    deadline = CONFIG.operation_timeout + 32 * MIB / CONFIG.min_throughput + 0.5
    async with connected(group.url()) as (manager, connector):
        stored: list[str] = []
        is_over = False

        async def bounded(call: Awaitable[MemoryObj | None]) -> MemoryObj | None:
            began = time.monotonic()
            try:
                return await call
            except StoreError:
                await asyncio.sleep(0.02)
                return None
            finally:
                assert time.monotonic() - began < deadline

        async def write(writer: int) -> None:
            number = 0
            while not is_over:
                key = f"w{writer}-{number}"
                with chunk(manager.local_cpu_backend, key, sizes[(writer + number) % len(sizes)]) as obj:
                    await bounded(connector.put(key, obj))
                stored.append(key)
                number += 1

        async def read(reader: int) -> None:
            choices = random.Random(reader)
            while not is_over:
                if not stored:
                    await asyncio.sleep(0.01)
                    continue
                key = choices.choice(stored[-12:])
                obj = await bounded(connector.get(key))
                assert obj is None or holds(obj, key), f"{key} holds other bytes"

        async with anyio.create_task_group() as load:
            for number in range(2):
                load.start_soon(write, number)
                load.start_soon(read, number)
            await asyncio.sleep(0.5)
            old = await asyncio.to_thread(group.kill_primary)
            await asyncio.to_thread(group.wait_until_healthy, timeout=RECOVERY)
            await until_put(manager, connector, "after", 5)
            is_over = True
        assert holds(await connector.get("after"), "after")

        await asyncio.to_thread(group.restart, old)  # it comes back as a primary, and is made a replica
        await asyncio.to_thread(group.wait_until_healthy, timeout=RECOVERY)
        keys = [f"then-{number}" for number in range(5)]
        for key in keys:
            await put(manager, connector, key, 4096)
        assert all(await connector.batched_exists(keys))
        assert group.primary() is not old
        with group.primary().client() as client:
            assert client.exists(*chunk_names("", keys)) == len(keys)


async def test_a_primary_that_is_frozen_is_left_and_its_connections_are_not_used_when_it_thaws(
    group: SentinelServers,
) -> None:
    await asyncio.to_thread(group.wait_until_healthy, timeout=RECOVERY)
    group.flush()
    async with connected(group.url()) as (manager, connector):
        await asyncio.gather(*(put(manager, connector, f"k{number}", 2 * MIB) for number in range(6)))
        old = group.primary()
        group.pause(old)
        try:
            with anyio.fail_after(RECOVERY):
                while group.primary() is old:
                    await asyncio.sleep(0.05)
            await until_put(manager, connector, "after")
        finally:
            group.resume(old)
        for number in range(8):
            await put(manager, connector, f"then-{number}", 4096)
            assert holds(await connector.get(f"then-{number}"), f"then-{number}")
        await asyncio.to_thread(group.wait_until_healthy, timeout=RECOVERY)
        assert group.primary() is not old
        assert all(await connector.batched_exists(["after", *(f"then-{number}" for number in range(8))]))


async def test_one_sentinel_of_three_is_enough(group: SentinelServers) -> None:
    await asyncio.to_thread(group.wait_until_healthy, timeout=RECOVERY)
    first, second, _ = group.sentinels
    first.kill()
    second.pause()
    try:
        async with connected(group.url()) as (manager, connector):
            await put(manager, connector, "k", 4096)
            assert holds(await connector.get("k"), "k")
    finally:
        second.resume()
        group.restart(first)
    await asyncio.to_thread(group.wait_until_healthy, timeout=RECOVERY)


async def test_a_cluster_of_sentinels_is_refused_and_their_own_scheme_is_named(group: SentinelServers) -> None:
    hosts = ",".join(f"{sentinel.host}:{sentinel.port}" for sentinel in group.sentinels)
    async with connected(f"redis-cluster://{hosts}") as (_, connector):
        with pytest.raises(NoClusterError, match="or of sentinels"):
            await connector.exists("k")


@pytest.mark.tls
async def test_data_nodes_and_sentinels_speak_tls_and_have_passwords_of_their_own(tmp_path: Path) -> None:
    if not RedisServer.available():
        pytest.skip("no redis-server on this machine")
    (tmp_path / "password").write_text("for-sentinels\n")
    with SentinelServers(
        RedisServer, tls=True, password="for-data", sentinel_password="for-sentinels", replicas=1
    ) as group:
        options = {"ca_file": group.ca_file, "sentinel_password_file": str(tmp_path / "password")}
        async with connected(group.url("rediss-sentinel", options=options)) as (manager, connector):
            for key, nbytes in SIZES.items():
                await put(manager, connector, key, nbytes)
                assert holds(await connector.get(key), key)
            await asyncio.to_thread(group.fail_over, timeout=RECOVERY)
            await until_put(manager, connector, "after")
            assert holds(await connector.get("after"), "after")
        plain = group.url("rediss-sentinel", options=options)
        for tls_port, port in ((sentinel.tls_port, sentinel.port) for sentinel in group.sentinels):
            plain = plain.replace(str(tls_port), str(port))
        async with connected(f"{plain}&sentinel_tls=false") as (manager, connector):
            await put(manager, connector, "mixed", 4096)
            assert holds(await connector.get("mixed"), "mixed")
