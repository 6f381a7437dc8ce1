"""Clusters, Sentinel groups and rings that tests are run against: real processes that find together and fail over."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import redis.exceptions
import redis.sentinel
from redis.cluster import RedisCluster

from lmcache_connect import RemoteURL
from lmcache_connect.errors import InvalidArgumentError
from lmcache_connect.testing import (
    ClusterServers,
    GroupNotHealthyError,
    RedisServer,
    RingServers,
    SentinelServers,
    ServerStartError,
    ValkeyServer,
)
from lmcache_connect.testing.servers.process import ServerNotRunningError
from lmcache_connect.testing.servers.redis import StoreServer
from lmcache_connect.testing.servers.slot_migration import slot_of

pytestmark = pytest.mark.in_turn

needs_redis_server = pytest.mark.skipif(
    not RedisServer.available(), reason="no redis-server on PATH; install one to run this test"
)
KINDS = [ValkeyServer, pytest.param(RedisServer, marks=needs_redis_server)]


@pytest.fixture(scope="module", params=KINDS, ids=["valkey", "redis"])
def cluster(request: pytest.FixtureRequest) -> Iterator[ClusterServers]:
    with ClusterServers(request.param, password="s3cret") as cluster:
        yield cluster


@pytest.fixture(scope="module", params=KINDS, ids=["valkey", "redis"])
def sentinels(request: pytest.FixtureRequest) -> Iterator[SentinelServers]:
    with SentinelServers(request.param, password="s3cret", sentinel_password="0ther") as group:
        yield group


def cluster_client(cluster: ClusterServers) -> RedisCluster:
    node = cluster.nodes()[0]
    return RedisCluster(host=node.host, port=node.port, password=cluster.password, protocol=2)


def sentinel_client(hosts: list[tuple[str, int]], **options: Any) -> Any:
    kind: Any = redis.sentinel.Sentinel  # redis-py leaves it without types
    return kind(hosts, **options)


def put(server: StoreServer, *names: str) -> None:
    with server.client() as client:
        for name in names:
            client.set(name, b"value")


def size(server: StoreServer) -> int:
    with server.client() as client:
        found = client.dbsize()
    assert isinstance(found, int)
    return found


# ---------------------------------------------------------------------------------------------------- Cluster


def test_a_cluster_has_three_primaries_with_a_replica_each_and_every_slot(cluster: ClusterServers) -> None:
    assert len(cluster.nodes()) == 6
    assert len(cluster.primaries()) == 3
    assert [len(cluster.replicas(primary)) for primary in cluster.primaries()] == [1, 1, 1]
    assert set(cluster.primaries()) | set(cluster.replicas()) == set(cluster.nodes())
    assert {cluster.owner_of(slot) for slot in (0, 8_000, 16_383)} == set(cluster.primaries())


def test_the_url_of_a_cluster_names_every_node(cluster: ClusterServers) -> None:
    url = RemoteURL.parse(cluster.url(options={"replicas": "prefer"}))
    assert url.scheme == "redis-cluster"
    assert [host.port for host in url.hosts] == [node.port for node in cluster.nodes()]
    assert url.password is not None
    assert url.password.get_secret_value() == "s3cret"
    assert list(url.query) == ["replicas"]
    with pytest.raises(InvalidArgumentError, match="'redis' is unknown; expected redis-cluster or valkey-cluster"):
        cluster.url("redis")
    with pytest.raises(InvalidArgumentError, match="has no TLS port"):
        cluster.url("rediss-cluster")


def test_a_client_of_the_cluster_finds_each_key_at_its_owner(cluster: ClusterServers) -> None:
    with cluster_client(cluster) as client:
        for number in range(20):
            client.set(f"key {number}", "value")
    for number in range(20):
        with cluster.owner_of(f"key {number}").client() as client:
            assert client.get(f"key {number}") == b"value"
    cluster.flush()
    assert [size(node) for node in cluster.nodes()] == [0] * 6


def test_a_replica_takes_over_where_it_is_told_to_and_nothing_is_lost(cluster: ClusterServers) -> None:
    before = cluster.owner_of("kept")
    put(before, "kept")
    after = cluster.fail_over(before)
    assert cluster.owner_of("kept") is after
    assert cluster.replicas(after) == [before]
    with after.client() as client:
        assert client.get("kept") == b"value"


def test_a_killed_primary_is_replaced_and_comes_back_as_a_replica(cluster: ClusterServers) -> None:
    primary = cluster.owner_of("key")
    (replica,) = cluster.replicas(primary)
    cluster.kill(primary)
    cluster.wait_until_healthy()
    assert cluster.owner_of("key") is replica
    cluster.restart(primary)
    cluster.wait_until_healthy()
    assert cluster.replicas(replica) == [primary]


def test_a_paused_primary_is_replaced_and_a_cluster_that_waits_for_it_is_not_healthy(cluster: ClusterServers) -> None:
    primary = cluster.owner_of("key")
    cluster.pause(primary)
    try:
        cluster.wait_until_healthy(without=[primary])
        assert cluster.owner_of("key") is not primary
    finally:
        cluster.resume(primary)
    cluster.wait_until_healthy()
    assert primary in cluster.replicas()


@pytest.mark.skipif(redis.__version__.startswith("5."), reason="redis-py 5 has no errors of its own for redirects")
def test_a_slot_stands_between_two_primaries_until_the_migration_is_finished(cluster: ClusterServers) -> None:
    names = [f"{{tag}}{number}" for number in range(4)]
    source = cluster.owner_of("{tag}")
    target = next(primary for primary in cluster.primaries() if primary is not source)
    put(source, *names)
    migration = cluster.migrate_slot(slot_of("{tag}"), target)
    assert sorted(migration.keys()) == [name.encode() for name in names]
    migration.move_keys(names[:2])
    assert sorted(migration.keys()) == [name.encode() for name in names[2:]]
    with source.client() as at_source, target.client() as at_target:
        assert at_source.get(names[3]) == b"value"
        with pytest.raises(redis.exceptions.AskError):
            at_source.get(names[0])
        with pytest.raises(redis.exceptions.MovedError):
            at_target.get(names[0])
        with pytest.raises(redis.exceptions.TryAgainError):
            at_source.mget(names)
    migration.finish()
    cluster.wait_until_healthy()
    assert cluster.owner_of("{tag}") is target
    with source.client() as at_source, target.client() as at_target:
        assert at_target.mget(names) == [b"value"] * 4
        with pytest.raises(redis.exceptions.MovedError):
            at_source.get(names[3])
    with pytest.raises(InvalidArgumentError, match="owns slot"):
        cluster.migrate_slot(slot_of("{tag}"), target)


def test_a_migration_that_is_cancelled_leaves_the_slot_where_it_is(cluster: ClusterServers) -> None:
    source = cluster.owner_of(7)
    target = next(primary for primary in cluster.primaries() if primary is not source)
    cluster.migrate_slot(7, target).cancel()
    cluster.wait_until_healthy()
    assert cluster.owner_of(7) is source


def test_a_node_is_added_given_slots_with_their_keys_and_forgotten(cluster: ClusterServers) -> None:
    cluster.flush()
    names = [f"key {number}" for number in range(300)]
    for name in names:
        put(cluster.owner_of(name), name)
    added = cluster.add_node()
    replica = cluster.add_node(replica_of=added)
    assert added not in cluster.primaries()
    cluster.move_slots(range(600), added)
    assert cluster.owner_of(8) is added
    assert size(added) == sum(slot_of(name) < 600 for name in names)
    cluster.forget(added)
    assert not added.running
    assert added not in cluster.nodes()
    assert replica in cluster.replicas()
    cluster.forget(replica)
    assert len(cluster.nodes()) == 6
    assert sum(size(primary) for primary in cluster.primaries()) == 300
    cluster.flush()


def test_a_cluster_whose_slots_have_no_owner_left_is_not_healthy() -> None:
    with ClusterServers(replicas_each=0) as cluster:
        dead = cluster.primaries()[0]
        cluster.kill(dead)
        with pytest.raises(GroupNotHealthyError, match=r"cluster is not ready after 0\.3 s: "):
            cluster.wait_until_healthy(timeout=0.3)
        cluster.restart(dead)
        cluster.wait_until_healthy()
        assert cluster.primaries()[0] is dead


@pytest.mark.tls
@needs_redis_server
def test_the_nodes_of_a_cluster_with_tls_talk_tls_and_are_moved_to_over_tls() -> None:
    with ClusterServers(RedisServer, tls=True, password="s3cret") as cluster:
        for scheme in ("rediss-cluster", "valkeys-cluster"):
            ports = [host.port for host in RemoteURL.parse(cluster.url(scheme)).hosts]
            assert ports == [node.tls_port for node in cluster.nodes()]
        node = cluster.nodes()[0]
        with RedisCluster(
            host=node.host, port=node.tls_port, password="s3cret", protocol=2, ssl=True, ssl_ca_certs=cluster.ca_file
        ) as client:
            client.set("key", "value")
            assert {node.port for node in client.get_nodes()} == {node.tls_port for node in cluster.nodes()}
        source = cluster.owner_of("key")
        target = next(primary for primary in cluster.primaries() if primary is not source)
        migration = cluster.migrate_slot(slot_of("key"), target)
        migration.finish()
        with target.client() as at_target:
            assert at_target.get("key") == b"value"
        with cluster_client(cluster) as plain:
            assert plain.get("key") == b"value"


def test_a_cluster_of_two_primaries_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="2 cannot agree on a failover; expected at least 3"):
        ClusterServers(primaries=2)


# --------------------------------------------------------------------------------------------------- Sentinel


def test_a_sentinel_group_has_a_primary_two_replicas_and_three_sentinels(sentinels: SentinelServers) -> None:
    assert len(sentinels.servers) == 3
    assert len(sentinels.sentinels) == 3
    assert set(sentinels.replicas()) == set(sentinels.servers) - {sentinels.primary()}


def test_the_url_of_a_sentinel_group_names_every_sentinel_and_the_service(sentinels: SentinelServers) -> None:
    url = RemoteURL.parse(sentinels.url())
    assert (url.scheme, url.path) == ("redis-sentinel", "/kv-cache")
    assert [host.port for host in url.hosts] == [sentinel.port for sentinel in sentinels.sentinels]
    assert url.password is not None
    assert url.password.get_secret_value() == "s3cret"
    assert sentinels.url(db=2).endswith("/kv-cache?db=2")


def test_a_client_of_the_sentinels_finds_the_primary(sentinels: SentinelServers) -> None:
    hosts = [(sentinel.host, sentinel.port) for sentinel in sentinels.sentinels]
    client = sentinel_client(hosts, sentinel_kwargs={"password": "0ther", "protocol": 2}, password="s3cret", protocol=2)
    assert client.discover_master(sentinels.service) == (sentinels.host, sentinels.primary().port)
    with client.master_for(sentinels.service) as primary:
        primary.set("key", "value")
    assert size(sentinels.primary()) == 1
    sentinels.flush()
    assert [size(server) for server in sentinels.servers] == [0, 0, 0]


@pytest.mark.long
def test_a_killed_primary_of_a_sentinel_group_is_replaced_and_comes_back_as_a_replica(
    sentinels: SentinelServers,
) -> None:
    killed = sentinels.kill_primary()
    assert not killed.running
    sentinels.wait_until_healthy()
    assert sentinels.primary() is not killed
    assert len(sentinels.replicas()) == 1
    sentinels.restart(killed)
    sentinels.wait_until_healthy()
    assert killed in sentinels.replicas()


def test_a_failover_that_is_asked_for_makes_a_replica_the_primary(sentinels: SentinelServers) -> None:
    before = sentinels.primary()
    after = sentinels.fail_over()
    assert after is sentinels.primary()
    assert after is not before
    assert before in sentinels.replicas()


def test_a_restarted_sentinel_goes_on_with_what_it_knew(sentinels: SentinelServers) -> None:
    primary = sentinels.primary()
    sentinels.restart(sentinels.sentinels[0])
    sentinels.wait_until_healthy()
    assert sentinels.primary() is primary


@pytest.mark.tls
@needs_redis_server
def test_a_sentinel_group_with_tls_calls_its_servers_by_their_tls_ports() -> None:
    with SentinelServers(RedisServer, tls=True, replicas=1, sentinels=1) as group:
        (host,) = RemoteURL.parse(group.url("rediss-sentinel")).hosts
        assert host.port is not None
        client = sentinel_client(
            [(host.host, host.port)],
            sentinel_kwargs={"protocol": 2, "ssl": True, "ssl_ca_certs": group.ca_file},
        )
        assert client.discover_master(group.service) == (group.host, group.primary().tls_port)


def test_a_password_that_a_sentinel_would_write_down_wrongly_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="expected ASCII without spaces"):
        SentinelServers(password="with space")
    with pytest.raises(InvalidArgumentError, match="expected ASCII without spaces"):
        SentinelServers(sentinel_password='"')


# ------------------------------------------------------------------------------------------------------- ring


def test_the_servers_of_a_ring_know_nothing_of_each_other() -> None:
    with RingServers(count=2, password="s3cret") as ring:
        first, second = ring.servers
        put(first, "key")
        assert (size(first), size(second)) == (1, 0)
        added = ring.add_server()
        assert ring.servers == (first, second, added)
        assert [host.port for host in RemoteURL.parse(ring.url("valkey-ring")).hosts] == [
            server.port for server in ring.servers
        ]
        ring.kill(second)
        ring.flush()
        ring.wait_until_healthy()
        assert size(first) == 0


@pytest.mark.tls
@needs_redis_server
def test_the_servers_of_a_ring_with_tls_have_one_ca() -> None:
    with RingServers(RedisServer, count=2, tls=True) as ring:
        context = ssl.create_default_context(cafile=ring.ca_file)
        for server in ring.servers:
            ssl.get_server_certificate((server.host, server.tls_port), timeout=5)
            with redis.Redis(host=server.host, port=server.tls_port, ssl=True, ssl_ca_certs=ring.ca_file) as client:
                assert client.ping()
        assert context.get_ca_certs()
        assert ring.url("rediss-ring").startswith("rediss-ring://127.0.0.1:")


# ------------------------------------------------------------------------------------------------- all groups


def test_a_group_with_tls_of_a_server_built_without_it_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="ValkeyServer is built without TLS; expected RedisServer"):
        RingServers(tls=True)


def test_a_group_takes_no_servers_of_another() -> None:
    with ValkeyServer() as stranger:
        ring = RingServers()
        for act in (ring.kill, ring.pause, ring.resume, ring.restart):
            with pytest.raises(InvalidArgumentError, match="this ring has no such server"):
                act(stranger)
        with pytest.raises(InvalidArgumentError, match=r"has no certificate; expected tls=True"):
            _ = ring.ca_file


def test_a_group_that_was_never_started_says_so() -> None:
    for group in (ClusterServers(), SentinelServers(), RingServers()):
        with pytest.raises(ServerNotRunningError, match=r"call start\(\) first"):
            group.url()
        group.stop()


def test_starting_a_running_group_starts_what_was_killed_and_nothing_else() -> None:
    with RingServers(count=2) as ring:
        first, second = ring.servers
        before = first.pid
        second.kill()
        ring.start()
        assert second.running
        assert first.pid == before


def test_a_group_of_which_one_server_does_not_come_up_leaves_none_behind() -> None:
    ring = RingServers(config={"no-such-directive": "1"})
    with pytest.raises(ServerStartError, match="no-such-directive"):
        ring.start()
    assert not any(server.running for server in ring.servers)


def test_a_stopped_ring_starts_again_at_the_same_addresses() -> None:
    ring = RingServers(count=1)
    with ring:
        url = ring.url()
    with ring:
        assert ring.url() == url
        assert ring.name.startswith("valkey ")
        assert ring.name.endswith(" ring")


def test_a_stopped_cluster_starts_again_empty_at_the_same_addresses() -> None:
    cluster = ClusterServers(replicas_each=0)
    with cluster:
        url = cluster.url()
        put(cluster.owner_of("key"), "key")
    with cluster:
        assert cluster.url() == url
        assert size(cluster.owner_of("key")) == 0
