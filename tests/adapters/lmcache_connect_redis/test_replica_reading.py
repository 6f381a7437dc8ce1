"""`?replicas=prefer` of a Sentinel URL: what replicas are asked, and what their lag, damage and death cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import anyio
import pytest

from lmcache_connect import ConnectorConfig, ConnectorManager, ManagedConnector
from lmcache_connect.record import chunk_names
from lmcache_connect.testing import SentinelServers, ValkeyServer
from lmcache_connect.testing.servers.process import unused_port
from lmcache_connect.testing.servers.redis import StoreServer

from .chunks import chunk, holds
from .scripted_server import ScriptedServer

pytestmark = pytest.mark.asyncio

MIB = 1 << 20
SIZES = {"small": 4096, "megabyte": MIB, "large": 9 * MIB + 77}
CONFIG = ConnectorConfig.load(operation_timeout=4, retries=0, max_local_cpu_bytes=128 * MIB)

Pair = tuple[ValkeyServer, ValkeyServer]


@pytest.fixture(scope="module")
def servers() -> Iterator[Pair]:
    """A primary, and a replica that takes writes of its own as well."""
    with ValkeyServer(config={"repl-diskless-sync-delay": "0"}) as primary:
        config = {"replicaof": f"127.0.0.1 {primary.port}", "replica-read-only": "no"}
        with ValkeyServer(config=config) as replica:
            yield primary, replica


@pytest.fixture
def pair(servers: Pair) -> Pair:
    """The same, without keys."""
    primary, replica = servers
    primary.flush()
    replica.flush()
    in_step(primary, replica)
    for server in servers:
        with server.client() as client:
            client.config_resetstat()
    return servers


def in_step(primary: StoreServer, replica: StoreServer) -> None:
    """Waits until the replica has what the primary has."""
    deadline = time.monotonic() + 10
    with primary.client() as ahead, replica.client() as behind:
        while True:
            state = behind.info("replication")
            is_linked = state.get("master_link_status") == "up"
            if is_linked and state["slave_repl_offset"] == ahead.info("replication")["master_repl_offset"]:
                return
            assert time.monotonic() < deadline
            time.sleep(0.01)


def bulk(*words: str) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word.encode()) for word in words)


def replies(primary: int, *replicas: int, flags: str = "slave", link: str = "ok") -> ScriptedServer:
    """A sentinel that names a primary and replicas by their ports."""
    about = [
        bulk("ip", "127.0.0.1", "port", str(port), "flags", flags, "master-link-status", link) for port in replicas
    ]

    def answer(command: list[bytes]) -> bytes:
        if command[1] == b"GET-MASTER-ADDR-BY-NAME":
            return bulk("127.0.0.1", str(primary))
        return b"*%d\r\n" % len(about) + b"".join(about)

    return ScriptedServer({b"PING": b"+PONG\r\n", b"SENTINEL": answer})


@asynccontextmanager
async def reading(
    sentinel: ScriptedServer, config: ConnectorConfig = CONFIG
) -> AsyncIterator[tuple[ConnectorManager, ManagedConnector]]:
    async with sentinel:
        url = f"redis-sentinel://127.0.0.1:{sentinel.port}/kv?replicas=prefer&stripe=1MiB"
        async with ConnectorManager(url, config=config) as manager:
            yield manager, manager.create_connector()


async def put(manager: ConnectorManager, connector: ManagedConnector, key: str, nbytes: int = 4096) -> None:
    with chunk(manager.local_cpu_backend, key, nbytes) as obj:
        await connector.put(key, obj)


def calls(server: StoreServer, *commands: str) -> int:
    with server.client() as client:
        stats = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"] for command in commands)


def damage(server: StoreServer, key: str) -> None:
    """Flips a bit in the middle of a stored record."""
    [name] = chunk_names("", [key])
    with server.client() as client:
        if client.type(name) == b"hash":
            value = bytearray(client.hget(name, "2") or b"")
            value[len(value) // 2] ^= 1
            client.hset(name, "2", bytes(value))
        else:
            value = bytearray(client.get(name) or b"")
            value[len(value) // 2] ^= 1
            client.set(name, bytes(value))


async def test_gets_and_look_ups_are_made_at_the_replica_and_everything_else_at_the_primary(pair: Pair) -> None:
    primary, replica = pair
    async with reading(replies(primary.port, replica.port)) as (manager, connector):
        for key, nbytes in SIZES.items():
            await put(manager, connector, key, nbytes)
        in_step(primary, replica)
        for key in SIZES:
            assert holds(await connector.get(key), key)
        found = await connector.batched_get([*SIZES, "none"])
        assert [holds(obj, key) for obj, key in zip(found, [*SIZES, "none"], strict=True)] == [True] * 3 + [False]
        assert await connector.batched_exists([*SIZES, "none"]) == [True, True, True, False]
        into = chunk(manager.local_cpu_backend, "other", SIZES["large"])
        assert await connector.get_into("large", into.byte_array)
        assert holds(into, "large")
        assert await asyncio.to_thread(connector.sync.exists, "small")
        assert calls(primary, "get", "hget", "exists", "hmget") == 0
        assert calls(replica, "get", "hget") >= 6
        assert sorted(await connector.list()) == sorted(SIZES)
        assert await connector.remove("small")
        in_step(primary, replica)
        assert not await connector.exists("small")


async def test_what_the_replica_does_not_have_yet_is_a_miss(pair: Pair) -> None:
    primary, replica = pair
    async with reading(replies(primary.port, replica.port)) as (manager, connector):
        with replica.client() as client:
            client.replicaof("127.0.0.1", 1)  # it has lost its primary, and serves what it has
        try:
            await put(manager, connector, "k")
            assert await connector.get("k") is None
            assert not await connector.exists("k")
        finally:
            with replica.client() as client:
                client.replicaof("127.0.0.1", primary.port)
            with anyio.fail_after(10):
                while not await connector.exists("k"):
                    await asyncio.sleep(0.02)


@pytest.mark.parametrize("key", ["small", "large"])
async def test_a_record_that_is_damaged_on_the_replica_comes_from_the_primary_and_nothing_is_removed(
    pair: Pair, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    primary, replica = pair
    async with reading(replies(primary.port, replica.port)) as (manager, connector):
        for name in ("before", key, "after"):
            await put(manager, connector, name, SIZES[key])
        in_step(primary, replica)
        damage(replica, key)
        for _ in range(3):
            assert holds(await connector.get(key), key)
        found = await connector.batched_get(["before", key, "none", "after"])
        expected = [True, True, False, True]
        assert [holds(o, k) for o, k in zip(found, ["before", key, "none", "after"], strict=True)] == expected
        into = [chunk(manager.local_cpu_backend, name, SIZES[key]) for name in ("x", "y")]
        assert await connector.batched_get_into([key, "after"], [obj.byte_array for obj in into]) == [True, True]
        assert [holds(obj, name) for obj, name in zip(into, [key, "after"], strict=True)] == [True, True]
        assert not [reason for reason in connector.statistics()["get"].misses if reason.startswith("corrupt")]
    assert "damaged_on_replica" in caplog.text
    with primary.client() as client:
        assert client.exists(*chunk_names("", [key])) == 1


async def test_a_record_that_is_damaged_on_the_replica_and_gone_from_the_primary_is_a_miss(pair: Pair) -> None:
    primary, replica = pair
    async with reading(replies(primary.port, replica.port)) as (manager, connector):
        await put(manager, connector, "k")
        in_step(primary, replica)
        damage(replica, "k")
        with replica.client() as client:
            client.replicaof("127.0.0.1", 1)
        try:
            assert await connector.remove("k")
            assert await connector.get("k") is None
            with replica.client() as client:
                assert client.exists(*chunk_names("", ["k"])) == 1, "nothing was removed there"
        finally:
            with replica.client() as client:
                client.replicaof("127.0.0.1", primary.port)


async def test_a_record_that_is_damaged_on_both_is_removed_by_the_rules(pair: Pair) -> None:
    primary, replica = pair
    async with reading(replies(primary.port, replica.port)) as (manager, connector):
        await put(manager, connector, "k")
        damage(primary, "k")
        in_step(primary, replica)
        assert await connector.get("k") is None
        with primary.client() as client:
            assert client.exists(*chunk_names("", ["k"])) == 0


@pytest.mark.parametrize("sentinel", ["none", "down", "unlinked", "the primary itself", "not there"])
async def test_without_a_usable_replica_the_primary_answers(pair: Pair, sentinel: str) -> None:
    primary, replica = pair
    told = {
        "none": replies(primary.port),
        "down": replies(primary.port, replica.port, flags="slave,s_down,disconnected"),
        "unlinked": replies(primary.port, replica.port, link="err"),
        "the primary itself": replies(primary.port, primary.port),
        "not there": replies(primary.port, unused_port()),
    }[sentinel]
    async with reading(told) as (manager, connector):
        await put(manager, connector, "k", SIZES["large"])
        assert await connector.exists("k")
        assert holds(await connector.get("k"), "k")
        asked = told.connections
        for _ in range(20):
            assert await connector.exists("k")
        assert told.connections <= asked + 1, "a replica that is not there is not looked for by every call"
    assert calls(replica, "hget", "exists") == 0


async def test_a_replica_that_is_killed_costs_no_call_anything(pair: Pair) -> None:
    primary, _ = pair
    with ValkeyServer(config={"replicaof": f"127.0.0.1 {primary.port}"}) as mortal:
        async with reading(replies(primary.port, mortal.port)) as (manager, connector):
            for key, nbytes in SIZES.items():
                await put(manager, connector, key, nbytes)
            with anyio.fail_after(10):
                while not all(await connector.batched_exists(list(SIZES))):
                    await asyncio.sleep(0.02)
            assert calls(mortal, "exists")
            gets = [asyncio.create_task(connector.get(key)) for key in [*SIZES] * 4]
            await asyncio.sleep(0)
            mortal.kill()
            for get, key in zip(gets, [*SIZES] * 4, strict=True):
                assert holds(await get, key)
            assert await connector.batched_exists(list(SIZES)) == [True] * 3
            found = await connector.batched_get(list(SIZES))
            assert [holds(obj, key) for obj, key in zip(found, SIZES, strict=True)] == [True] * 3


async def test_a_replica_that_is_frozen_costs_a_part_of_the_calls_time_and_no_answer(pair: Pair) -> None:
    primary, _ = pair
    with ValkeyServer(config={"replicaof": f"127.0.0.1 {primary.port}"}) as frozen:
        async with reading(replies(primary.port, frozen.port)) as (manager, connector):
            await put(manager, connector, "k", SIZES["large"])
            with anyio.fail_after(10):
                while not await connector.exists("k"):
                    await asyncio.sleep(0.02)
            frozen.pause()
            assert await connector.exists("k")
            assert holds(await connector.get("k"), "k")
            frozen.resume()


async def test_on_a_real_group_reads_go_on_while_the_primary_is_dead() -> None:
    with SentinelServers(replicas=1, sentinels=1) as group:
        async with ConnectorManager(group.url(options={"replicas": "prefer"}), config=CONFIG) as manager:
            connector = manager.create_connector()
            for key, nbytes in SIZES.items():
                await put(manager, connector, key, nbytes)
            in_step(*group.servers)
            assert all(await connector.batched_exists(list(SIZES)))
            group.primary().pause()
            try:
                for key in SIZES:
                    assert holds(await connector.get(key), key)
            finally:
                group.servers[0].resume()
