"""`redis-cluster://` on a cluster of real processes: where chunks lie, and what a move of a slot costs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

import pytest

from lmcache_connect import (
    ConnectorConfig,
    ConnectorManager,
    InvalidURLError,
    LMCacheConnectError,
    ManagedConnector,
)
from lmcache_connect.errors import InvalidOptionError
from lmcache_connect.record import chunk_names
from lmcache_connect.testing import ClusterServers, Fault, FaultKind, FaultProxy, ValkeyServer
from lmcache_connect.testing.servers.redis import StoreServer
from lmcache_connect_redis.topology.cluster import NoClusterError

from .chunks import chunk, holds
from .cluster_load import Load, keys_in, put, slot_of_key, use_while_a_slot_moves

pytestmark = pytest.mark.asyncio

STRICT = ConnectorConfig.load(errors="raise", operation_timeout=8, max_local_cpu_bytes=192 << 20)
SMALL, LARGE, STRIPED = 2_000, 1_500_000, 6 << 20


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterServers]:
    with ClusterServers(config={"availability-zone": "zone-a"}) as cluster:
        yield cluster


@asynccontextmanager
async def opened(
    cluster: ClusterServers, config: ConnectorConfig = STRICT, **options: str
) -> AsyncIterator[tuple[ConnectorManager, ManagedConnector]]:
    await asyncio.to_thread(cluster.flush)
    async with ConnectorManager(cluster.url(options=options), config=config) as manager:
        yield manager, manager.create_connector()


def size(server: StoreServer) -> int:
    with server.client() as client:
        found = client.dbsize()
    assert isinstance(found, int)
    return found


def calls(server: StoreServer, command: str) -> int:
    with server.client() as client:
        told = client.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})
    return int(told["calls"])


# ---------------------------------------------------------------------------------------------------- the nodes


async def test_a_batch_lies_on_all_nodes_and_comes_back_in_order(cluster: ClusterServers) -> None:
    keys = [f"key-{number}" for number in range(60)]
    async with opened(cluster) as (manager, connector):
        sizes = [STRIPED if number % 20 == 0 else SMALL for number in range(len(keys))]
        objs = [chunk(manager.local_cpu_backend, key, nbytes) for key, nbytes in zip(keys, sizes, strict=True)]
        await connector.batched_put(keys, objs)
        for obj in objs:
            obj.ref_count_down()
        counts = await asyncio.to_thread(lambda: [size(server) for server in cluster.primaries()])
        assert sum(counts) == len(keys)
        assert min(counts) > 0
        assert await connector.batched_exists([*keys, "other"]) == [True] * len(keys) + [False]
        got = await connector.batched_get([keys[0], "other", *keys[1:]])
        assert got.pop(1) is None
        assert all(holds(obj, key) for key, obj in zip(keys, got, strict=True))
        assert sorted(await connector.list()) == sorted(keys)
        assert await connector.ping() == 0
        assert await connector.batched_remove(keys[:30]) == [True] * 30
        assert sorted(await connector.list()) == sorted(keys[30:])


async def test_a_batch_costs_each_node_one_round_trip(cluster: ClusterServers) -> None:
    keys = [f"key-{number}" for number in range(90)]
    async with opened(cluster) as (_, connector):
        await connector.batched_exists(keys)
        first = await asyncio.to_thread(reads_of_sockets, cluster)
        second = await asyncio.to_thread(reads_of_sockets, cluster)
        await connector.batched_exists(keys)
        third = await asyncio.to_thread(reads_of_sockets, cluster)
    # The questions of the test cost some as well, and a replica reports once a second. A read for each key would be 30.
    for before, asked, after in zip(first, second, third, strict=True):
        assert after - asked <= asked - before + 4


def reads_of_sockets(cluster: ClusterServers) -> list[int]:
    told = []
    for server in cluster.primaries():
        with server.client() as client:
            told.append(int(client.info("stats")["total_reads_processed"]))
    return told


async def test_memory_of_the_caller_is_filled_and_sent_in_place(cluster: ClusterServers) -> None:
    keys = [f"key-{number}" for number in range(12)]
    sent = [bytearray(key.encode() * 1000) for key in keys]
    async with opened(cluster) as (_, connector):
        assert await connector.batched_put_from(keys, sent) == [True] * len(keys)
        got = [bytearray(len(data)) for data in sent]
        assert await connector.batched_get_into(keys, got) == [True] * len(keys)
        assert got == sent


async def test_braces_in_keys_lead_no_chunk_astray(cluster: ClusterServers) -> None:
    keys = ["{a}b", "}{", "a{b", "{}", "{x}{y}"]
    async with opened(cluster, prefix="team/7") as (manager, connector):
        for key in keys:
            await put(manager, connector, key, STRIPED)
        for key in keys:
            assert holds(await connector.get(key), key)
        assert sorted(await connector.list()) == sorted(keys)


async def test_announcements_are_read_by_others(cluster: ClusterServers) -> None:
    async with opened(cluster) as (_, connector), ConnectorManager(cluster.url(), config=STRICT) as other:
        reader = other.create_connector()
        await connector.announce("worker-1", b"one", 60)
        await connector.announce("worker-2", b"two", 60)
        assert sorted(await reader.announced()) == [b"one", b"two"]
        await connector.withdraw("worker-1")
        assert await reader.announced() == [b"two"]
        assert await reader.list() == []


# ------------------------------------------------------------------------------------------------- moving slots


@pytest.mark.parametrize("nbytes", [SMALL, LARGE, STRIPED])
@pytest.mark.parametrize("io", ["thread", "loop"])
async def test_a_slot_that_moves_hides_nothing_and_refuses_nothing(
    cluster: ClusterServers, nbytes: int, io: str
) -> None:
    async with opened(cluster, io=io) as (manager, connector):
        await use_while_a_slot_moves(cluster, manager, connector, nbytes)


async def test_a_chunk_that_fits_no_value_is_put_when_its_slot_has_moved(cluster: ClusterServers) -> None:
    slot = 4_713
    [key] = keys_in(slot, 1)
    source = await asyncio.to_thread(cluster.owner_of, slot)
    target = next(server for server in await asyncio.to_thread(cluster.primaries) if server is not source)
    async with opened(cluster, stripe="65536", max_value_bytes=str(1 << 20)) as (manager, connector):
        migration = await asyncio.to_thread(cluster.migrate_slot, slot, target)
        before = await asyncio.to_thread(calls, source, "multi")
        putting = asyncio.create_task(put(manager, connector, key, 2 << 20))
        while await asyncio.to_thread(calls, source, "multi") <= before + 1 and not putting.done():
            await asyncio.sleep(0.005)
        assert not putting.done()
        await asyncio.to_thread(migration.finish)
        await putting
        assert holds(await connector.get(key), key)
    await asyncio.to_thread(cluster.move_slots, [slot], source)


async def test_calls_from_other_threads_follow_a_slot_that_moves(cluster: ClusterServers) -> None:
    slot = 4_712
    stays, moves = keys_in(slot, 2)
    source = await asyncio.to_thread(cluster.owner_of, slot)
    target = next(server for server in await asyncio.to_thread(cluster.primaries) if server is not source)
    async with opened(cluster) as (manager, connector):

        def round_trip() -> bool:
            for key in (stays, moves):
                with chunk(manager.local_cpu_backend, key, SMALL) as obj:
                    connector.sync.put(key, obj)
            return all(connector.sync.exists(key) and holds(connector.sync.get(key), key) for key in (stays, moves))

        assert await asyncio.to_thread(round_trip)
        migration = await asyncio.to_thread(cluster.migrate_slot, slot, target)
        await asyncio.to_thread(migration.move_keys, chunk_names("", [moves]))
        assert await asyncio.to_thread(round_trip)
        await asyncio.to_thread(migration.finish)
        assert await asyncio.to_thread(round_trip)
    await asyncio.to_thread(cluster.move_slots, [slot], source)


async def test_slots_that_move_under_load_cost_no_call(cluster: ClusterServers) -> None:
    async with opened(cluster) as (manager, connector):
        load = Load(manager, connector, [SMALL, LARGE, STRIPED])
        load.start(workers=4, keys=6)
        slots = [slot_of_key(f"worker-{number}-{index}") for number in range(4) for index in (0, 3)]
        for slot in slots:
            source = await asyncio.to_thread(cluster.owner_of, slot)
            target = next(server for server in await asyncio.to_thread(cluster.primaries) if server is not source)
            migration = await asyncio.to_thread(cluster.migrate_slot, slot, target)
            await load.go_on(5)
            await asyncio.to_thread(migration.move_keys)
            await load.go_on(5)
            await asyncio.to_thread(migration.finish)
        await load.stop()
        assert load.failed == []
        assert load.wrong == []
    await asyncio.to_thread(cluster.mend)


async def test_a_node_that_is_added_and_one_that_is_forgotten_cost_no_call(cluster: ClusterServers) -> None:
    async with opened(cluster) as (manager, connector):
        load = Load(manager, connector, [SMALL, LARGE])
        load.start(workers=3, keys=8)
        added = await asyncio.to_thread(cluster.add_node)
        mine = [slot_of_key(f"worker-{number}-{index}") for number in range(3) for index in range(8)]
        await asyncio.to_thread(cluster.move_slots, mine, added)
        await load.go_on(20)
        assert await asyncio.to_thread(size, added) > 0
        await asyncio.to_thread(cluster.forget, added)
        await load.go_on(20)
        await load.stop()
        assert load.failed == []
        assert load.wrong == []
        assert await connector.ping() == 0


# ---------------------------------------------------------------------------------------------------- replicas


@pytest.mark.parametrize("nbytes", [SMALL, STRIPED])
async def test_replicas_answer_gets_and_look_ups_where_they_are_preferred(cluster: ClusterServers, nbytes: int) -> None:
    key = "key"
    primary = await asyncio.to_thread(cluster.owner_of, slot_of_key(key))
    [replica] = await asyncio.to_thread(cluster.replicas, primary)
    command = "get" if nbytes == SMALL else "hget"
    async with opened(cluster, replicas="prefer") as (manager, connector):
        await put(manager, connector, key, nbytes)
        await asyncio.to_thread(until_copied, primary)
        before = [await asyncio.to_thread(calls, server, command) for server in (primary, replica)]
        assert holds(await connector.get(key), key)
        assert await connector.exists(key)
        after = [await asyncio.to_thread(calls, server, command) for server in (primary, replica)]
    assert after[0] == before[0]
    assert after[1] > before[1]


def until_copied(primary: StoreServer) -> None:
    with primary.client() as client:
        client.wait(1, 5000)


async def test_a_replica_that_is_away_costs_nothing_but_its_help(cluster: ClusterServers) -> None:
    key = "key"
    primary = await asyncio.to_thread(cluster.owner_of, slot_of_key(key))
    [replica] = await asyncio.to_thread(cluster.replicas, primary)
    async with opened(cluster, replicas="prefer") as (manager, connector):
        await put(manager, connector, key, SMALL)
        await asyncio.to_thread(until_copied, primary)
        assert await connector.exists(key)
        await asyncio.to_thread(cluster.kill, replica)
        try:
            for _ in range(12):  # also when its breaker has opened
                assert holds(await connector.get(key), key)
                assert await connector.batched_exists([key, "other"]) == [True, False]
        finally:
            await asyncio.to_thread(cluster.mend)


async def test_a_replica_that_hangs_costs_one_call_a_part_of_its_time(cluster: ClusterServers) -> None:
    key = "key"
    primary = await asyncio.to_thread(cluster.owner_of, slot_of_key(key))
    [replica] = await asyncio.to_thread(cluster.replicas, primary)
    quick = STRICT.model_copy(update={"operation_timeout": 2.0, "stall_timeout": 2.0})
    async with opened(cluster, quick, replicas="prefer") as (manager, connector):
        await put(manager, connector, key, SMALL)
        await asyncio.to_thread(until_copied, primary)
        assert holds(await connector.get(key), key)
        cluster.pause(replica)
        try:
            async with asyncio.timeout(12):  # calls that wait for it each would take more than twice as long
                for _ in range(12):
                    assert holds(await connector.get(key), key)
                    assert await connector.exists(key)
        finally:
            await asyncio.to_thread(cluster.mend)


async def test_a_replica_that_lets_nobody_in_costs_nothing_but_its_help(cluster: ClusterServers) -> None:
    key = "key"
    primary = await asyncio.to_thread(cluster.owner_of, slot_of_key(key))
    [replica] = await asyncio.to_thread(cluster.replicas, primary)
    with replica.client() as client:
        client.config_set("requirepass", "another")
        try:
            async with opened(cluster, replicas="prefer") as (manager, connector):
                await put(manager, connector, key, SMALL)
                for _ in range(3):
                    assert holds(await connector.get(key), key)
                    assert await connector.batched_exists([key, "other"]) == [True, False]
        finally:
            client.config_set("requirepass", "")


@pytest.mark.parametrize(("nbytes", "after"), [(SMALL, 1000), (STRIPED, 2 << 20)])
async def test_damage_from_a_replica_removes_nothing_and_hides_nothing(
    cluster: ClusterServers, nbytes: int, after: int
) -> None:
    key = "key"
    primary = await asyncio.to_thread(cluster.owner_of, slot_of_key(key))
    [replica] = await asyncio.to_thread(cluster.replicas, primary)
    with FaultProxy(replica.host, replica.port) as proxy:
        await asyncio.to_thread(announce, cluster, replica, proxy.port)
        try:
            async with opened(cluster, replicas="prefer") as (manager, connector):
                await put(manager, connector, key, nbytes)
                await asyncio.to_thread(until_copied, primary)
                for _ in range(2):
                    assert holds(await connector.get(key), key)  # the next one uses the same connection
                    proxy.arm(Fault(FaultKind.FLIP, after_bytes=after, count=1))
                    assert holds(await connector.get(key), key)
                    assert proxy.fired == 1
                    proxy.arm(Fault(FaultKind.FLIP, after_bytes=after, count=1))
                    [got] = await connector.batched_get([key])
                    assert holds(got, key)
                    assert proxy.fired == 1
                assert await asyncio.to_thread(size, primary) == 1
        finally:
            await asyncio.to_thread(announce, cluster, replica, 0)


def announce(cluster: ClusterServers, server: StoreServer, port: int) -> None:
    """Has a node tell everybody that it is at another port; 0: at its own."""
    with server.client() as client:
        client.config_set("cluster-announce-port", port)
    until(lambda: all((port or server.port) in zones_of(node) for node in cluster.nodes()))


async def test_nodes_of_the_zone_are_asked_first(cluster: ClusterServers) -> None:
    key = "key"
    primary = await asyncio.to_thread(cluster.owner_of, slot_of_key(key))
    [replica] = await asyncio.to_thread(cluster.replicas, primary)

    def move_to(server: StoreServer, zone: str) -> None:
        with server.client() as client:
            client.config_set("availability-zone", zone)

    for near, far in ((primary, replica), (replica, primary)):
        await asyncio.to_thread(move_to, near, "near")
        await asyncio.to_thread(move_to, far, "far")
        await asyncio.to_thread(until_zones_are_known, cluster, [near, far], ["near", "far"])
        async with opened(cluster, replicas="prefer", zone="near") as (manager, connector):
            await put(manager, connector, key, SMALL)
            await asyncio.to_thread(until_copied, primary)
            before = await asyncio.to_thread(calls, near, "get")
            assert holds(await connector.get(key), key)
            assert await asyncio.to_thread(calls, near, "get") == before + 1


def until_zones_are_known(cluster: ClusterServers, servers: Sequence[StoreServer], zones: Sequence[str]) -> None:
    wanted = [*zip(servers, zones, strict=True)]
    until(lambda: all(zones_of(node).get(server.port) == zone for node in cluster.nodes() for server, zone in wanted))


def until(is_so: Callable[[], bool]) -> None:
    ends = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.02)


def zones_of(server: StoreServer) -> dict[int, str]:
    with server.client() as client:
        found: dict[int, str] = {}
        for _, _, *nodes in client.execute_command("CLUSTER", "SLOTS"):
            for _, port, _, pairs in nodes:
                fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
                found[port] = fields.get(b"availability-zone", b"").decode()
        return found


# -------------------------------------------------------------------------------------------------- wrong URLs


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis-cluster://", "no host"),
        ("redis-cluster://h:1,h:1", "given twice"),
        ("redis-cluster://h:0", "port of h is 0"),
        ("redis-cluster://h:1/3", "a cluster has one database"),
        ("redis-cluster://h:1/0", "a cluster has one database"),
        ("redis-cluster://h:1?db=1", "a cluster has one"),
        ("redis-cluster://h:1?layout=lmcache", "different nodes"),
        ("redis-cluster://h:1?replicas=always", "'never' or 'prefer'"),
        ("redis-cluster://h:1?zone=eu-1a", "replicas=prefer"),
    ],
)
async def test_a_url_that_cannot_be_a_clusters_says_what_is_wrong(url: str, told: str) -> None:
    async with ConnectorManager(url, config=STRICT) as manager:
        with pytest.raises((InvalidURLError, InvalidOptionError), match=told):
            manager.create_connector()


async def test_several_urls_are_not_one() -> None:
    with pytest.raises(InvalidURLError, match="joined by a comma"):
        ConnectorManager("redis-cluster://h:1,redis://i:2", config=STRICT)


async def test_a_server_that_is_part_of_no_cluster_says_so_at_once(valkey_server: ValkeyServer) -> None:
    url = f"redis-cluster://{valkey_server.host}:{valkey_server.port}"
    async with ConnectorManager(url, config=STRICT) as manager:
        with pytest.raises(NoClusterError, match=f"such as redis://{valkey_server.host}:{valkey_server.port}"):
            await manager.create_connector().get("key")


async def test_a_cluster_that_is_not_there_is_asked_less_and_less(unused_tcp_port: int) -> None:
    url = f"redis-cluster://127.0.0.1:{unused_tcp_port}"
    async with ConnectorManager(url, config=STRICT.model_copy(update={"retries": 0})) as manager:
        connector = manager.create_connector()
        told = []
        for _ in range(STRICT.breaker_failures + 1):
            with pytest.raises(LMCacheConnectError) as caught:
                await connector.get("key")
            told.append(type(caught.value).__name__)
        assert told[0] == "StoreUnavailableError"
        assert told[-1] == "CircuitOpenError"
